#include "make_variant.cuh"

namespace kv8::lab {
namespace {

const Add kAdd{
    {"a-half-r3n128", make<kHalf, 128, kF, 3, 1, 128, 2, 1, 0, kS>()},
    {"a-half-r2n128", make<kHalf, 128, kF, 2, 1, 128, 2, 1, 0, kS>()},
    {"a-half-r2n128o", make<kHalf, 128, kF, 2, 1, 128, 2, 1, 0, kO>()},
    {"a-half-two", make<kHalf, 128, kF, 1, 1, 64, 3, 2, 0, kS>()},
    {"a-half-two-o", make<kHalf, 128, kF, 1, 1, 64, 3, 2, 0, kO>()},
    {"b-half-r3n128", make<kHalf, 64, kF, 3, 1, 128, 3, 1, 0, kS>()},
    {"b-half-two", make<kHalf, 64, kF, 1, 1, 128, 3, 2, 0, kS>()},
    {"b-half-two-o", make<kHalf, 64, kF, 1, 1, 128, 3, 2, 0, kO>()},
};

}  // namespace
}  // namespace kv8::lab
