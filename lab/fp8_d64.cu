#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"b-r4n128", make<F8, 64, H, 4, 1, 128, 4, 1, 5, S>()},
    {"b-r3n192", make<F8, 64, H, 3, 1, 192, 4, 1, 5, S>()},
    {"b-r3n128o", make<F8, 64, H, 3, 1, 128, 4, 1, 5, O>()},
    {"b-two-n128", make<F8, 64, H, 1, 1, 128, 4, 2, 4, S>()},
    {"b-two-n128o", make<F8, 64, H, 1, 1, 128, 4, 2, 4, O>()},
    {"b-g3n128", make<F8, 64, H, 1, 3, 128, 6, 1, 4, S>()},
    {"b-f32", make<F8, 64, F, 3, 1, 128, 4, 1, 0, S>()},
};

}  // namespace
}  // namespace kv8::lab
