#include "exec/sequence.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace kv8::exec {

Sequence::Sequence(Sequence&& other) noexcept
    : pool_(other.pool_),
      pages_(std::exchange(other.pages_, {})),
      length_(std::exchange(other.length_, 0)) {}

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    pages_ = std::exchange(other.pages_, {});
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

Sequence::~Sequence() { clear(); }

void Sequence::clear() {
  for (const std::int32_t page : pages_) pool_->release(page);
  pages_.clear();
  length_ = 0;
}

std::int64_t Sequence::pages_lacking(std::int32_t tokens) const {
  KV8_CHECK(tokens >= 0, "{} tokens", tokens);
  const std::int64_t needed = pages_for_tokens(std::int64_t{length_} + tokens);
  return std::max<std::int64_t>(0, needed - static_cast<std::int64_t>(pages_.size()));
}

Status Sequence::reserve(std::int32_t tokens) {
  const std::int64_t lacking = pages_lacking(tokens);
  if (std::int64_t{length_} + tokens > std::numeric_limits<std::int32_t>::max() ||
      lacking > pool_->num_free()) {
    return capacity_error(
        "{} more tokens after {} need {} KV pages of {} tokens, {} of {} are free", tokens, length_,
        lacking, kPageTokens, pool_->num_free(), pool_->num_pages());
  }
  for (std::int64_t i = 0; i < lacking; ++i) pages_.push_back(KV8_TRY(pool_->take()));
  return {};
}

void Sequence::advance(std::int32_t tokens) {
  KV8_CHECK(pages_lacking(tokens) == 0, "{} tokens after {} in {} pages", tokens, length_,
            pages_.size());
  length_ += tokens;
}

Result<Sequence> Sequence::fork(Backend& backend) const {
  Sequence copy(*pool_);
  const auto full_pages = static_cast<std::size_t>(length_ / kPageTokens);
  for (std::size_t i = 0; i < full_pages; ++i) {
    pool_->add_reference(pages_[i]);
    copy.pages_.push_back(pages_[i]);
  }
  copy.length_ = static_cast<std::int32_t>(full_pages) * kPageTokens;
  if (copy.length_ < length_) {
    const std::int32_t tail = length_ - copy.length_;
    KV8_TRY(copy.reserve(tail));
    KV8_TRY(backend.copy_page(pages_[full_pages], copy.pages_.back()));
    copy.advance(tail);
  }
  return copy;
}

}  // namespace kv8::exec
