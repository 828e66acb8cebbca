#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"a-r3n192", make<kE4m3, 128, kH, 3, 1, 192, 3, 1, 4, kS>()},
    {"a-r3n128", make<kE4m3, 128, kH, 3, 1, 128, 4, 1, 4, kS>()},
    {"a-r2n128", make<kE4m3, 128, kH, 2, 1, 128, 4, 1, 4, kS>()},
    {"a-r2n128o", make<kE4m3, 128, kH, 2, 1, 128, 4, 1, 4, kO>()},
    {"a-two-n128", make<kE4m3, 128, kH, 1, 1, 128, 3, 2, 4, kS>()},
    {"a-two-n128o", make<kE4m3, 128, kH, 1, 1, 128, 3, 2, 4, kO>()},
    {"a-g2n128", make<kE4m3, 128, kH, 1, 2, 128, 4, 1, 4, kS>()},
    {"a-f32-r2n128", make<kE4m3, 128, kF, 2, 1, 128, 4, 1, 0, kS>()},
};

}  // namespace
}  // namespace kv8::lab
