#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"b-r4n128", make<kE4m3, 64, kH, 4, 1, 128, 4, 1, 5, kS>()},
    {"b-r3n192", make<kE4m3, 64, kH, 3, 1, 192, 4, 1, 5, kS>()},
    {"b-r3n128o", make<kE4m3, 64, kH, 3, 1, 128, 4, 1, 5, kO>()},
    {"b-two-n128", make<kE4m3, 64, kH, 1, 1, 128, 4, 2, 4, kS>()},
    {"b-two-n128o", make<kE4m3, 64, kH, 1, 1, 128, 4, 2, 4, kO>()},
    {"b-g3n128", make<kE4m3, 64, kH, 1, 3, 128, 6, 1, 4, kS>()},
    {"b-f32", make<kE4m3, 64, kF, 3, 1, 128, 4, 1, 0, kS>()},
};

}  // namespace
}  // namespace kv8::lab
