#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"a-half-r3n128", make<F16, 128, F, 3, 1, 128, 2, 1, 0, S>()},
    {"a-half-r2n128", make<F16, 128, F, 2, 1, 128, 2, 1, 0, S>()},
    {"a-half-r2n128o", make<F16, 128, F, 2, 1, 128, 2, 1, 0, O>()},
    {"a-half-two", make<F16, 128, F, 1, 1, 64, 3, 2, 0, S>()},
    {"a-half-two-o", make<F16, 128, F, 1, 1, 64, 3, 2, 0, O>()},
    {"b-half-r3n128", make<F16, 64, F, 3, 1, 128, 3, 1, 0, S>()},
    {"b-half-two", make<F16, 64, F, 1, 1, 128, 3, 2, 0, S>()},
    {"b-half-two-o", make<F16, 64, F, 1, 1, 128, 3, 2, 0, O>()},
};

}  // namespace
}  // namespace kv8::lab
