#pragma once

namespace sm80moe {

enum class ElementType { kFloat32, kFloat16, kBFloat16 };

}  // namespace sm80moe
