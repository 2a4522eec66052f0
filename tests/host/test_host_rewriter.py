"""The rewriter changes CUDA's own syntax, keeps every line, and refuses what it does not know."""

import pytest

from tests.host.rewriter import RewriteError, rewrite

pytestmark = pytest.mark.host


def rewritten(text: str) -> str:
    first, _, rest = rewrite(text, "kernels/x.cu").partition("\n")
    assert first == '# 1 "kernels/x.cu"'
    assert rest.count("\n") == text.count("\n")
    return rest


def test_launch_over_two_lines() -> None:
    text = "f<A, 2><<<dim3(1, 2), n * 32,\n  smem>>>(args, 3);"
    assert rewritten(text) == "f<A, 2> ->* simt::configure(dim3(1, 2), n * 32,\n  smem)(args, 3);"


def test_nested_template_arguments_are_no_launch() -> None:
    text = "x = f<A<B<C>>>(y);"
    assert rewritten(text) == text


def test_shared_memory() -> None:
    assert rewritten("extern __shared__ int counts[];") == (
        "int* const counts = simt::dynamic_shared<int>();"
    )
    assert rewritten("__shared__ __align__(16) T tile[4][kN + 1];") == (
        'auto& tile = simt::static_shared<T[4][kN + 1]>("tile", 16);'
    )


def test_asm_that_may_be_left_out() -> None:
    assert rewritten('asm("op %0;": "=r"(d));') == (
        'simt::run_ptx("op %0;", {simt::write_back("=r", d)});'
    )


def test_asm() -> None:
    text = 'asm volatile("op %0, [%1], %2;"\n'
    text += ': "+f"(d[0])\n : "l"(p), "r"(f(a, b) ? 1 : 0)\n : "memory");'
    assert "".join(rewritten(text).split()) == (
        'simt::run_ptx("op%0,[%1],%2;",{simt::write_back("+f",d[0]),'
        'simt::pass("l",p),simt::pass("r",f(a,b)?1:0)});'
    )


@pytest.mark.parametrize("text", ['asm goto("nop;");', "__shared__ int x = 3, y;", "f<<<1, 1>>>;"])
def test_unknown_forms_are_refused(text: str) -> None:
    with pytest.raises(RewriteError):
        rewrite(text, "x.cu")
