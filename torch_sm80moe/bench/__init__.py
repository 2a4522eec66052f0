"""The benchmark: `sm80moe bench` measures, `sm80moe report` shows; nothing else imports this."""
