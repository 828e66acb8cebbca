#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"a-r3n192", make<F8, 128, H, 3, 1, 192, 3, 1, 4, S>()},
    {"a-r3n128", make<F8, 128, H, 3, 1, 128, 4, 1, 4, S>()},
    {"a-r2n128", make<F8, 128, H, 2, 1, 128, 4, 1, 4, S>()},
    {"a-r2n128o", make<F8, 128, H, 2, 1, 128, 4, 1, 4, O>()},
    {"a-two-n128", make<F8, 128, H, 1, 1, 128, 3, 2, 4, S>()},
    {"a-two-n128o", make<F8, 128, H, 1, 1, 128, 3, 2, 4, O>()},
    {"a-g2n128", make<F8, 128, H, 1, 2, 128, 4, 1, 4, S>()},
    {"a-f32-r2n128", make<F8, 128, F, 2, 1, 128, 4, 1, 0, S>()},
};

}  // namespace
}  // namespace kv8::lab
