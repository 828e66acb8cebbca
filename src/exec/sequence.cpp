#include "exec/sequence.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace kv8::exec {
namespace {

PageTokens page_tokens(std::size_t number, std::span<const std::int32_t> tokens) {
  const std::size_t begin = number * kPageTokens;
  KV8_CHECK(begin + kPageTokens <= tokens.size(), "page {} of {} tokens", number, tokens.size());
  return tokens.subspan(begin).first<kPageTokens>();
}

}  // namespace

Sequence::Sequence(Sequence&& other) noexcept
    : pool_(other.pool_),
      pages_(std::exchange(other.pages_, {})),
      num_indexed_(std::exchange(other.num_indexed_, 0)),
      length_(std::exchange(other.length_, 0)) {}

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    pages_ = std::exchange(other.pages_, {});
    num_indexed_ = std::exchange(other.num_indexed_, 0);
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

Sequence::~Sequence() { clear(); }

void Sequence::clear() {
  while (!pages_.empty()) {  // children before parents
    pool_->release(pages_.back());
    pages_.pop_back();
  }
  num_indexed_ = 0;
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
      lacking > pool_->num_available()) {
    return capacity_error(
        "{} more tokens after {} need {} KV pages of {} tokens, {} of {} are free", tokens, length_,
        lacking, kPageTokens, pool_->num_available(), pool_->num_pages());
  }
  for (std::int64_t i = 0; i < lacking; ++i) pages_.push_back(KV8_TRY(pool_->take()));
  return {};
}

void Sequence::advance(std::int32_t tokens) {
  KV8_CHECK(pages_lacking(tokens) == 0, "{} tokens after {} in {} pages", tokens, length_,
            pages_.size());
  length_ += tokens;
}

std::int32_t Sequence::reuse(std::span<const std::int32_t> tokens) {
  const std::int32_t before = length_;
  if (static_cast<std::size_t>(length_) != num_indexed_ * kPageTokens) return 0;
  while (static_cast<std::size_t>(length_) + kPageTokens < tokens.size()) {
    const std::int32_t page = find_page(num_indexed_, tokens);
    if (page == kNoPage) break;
    if (num_indexed_ < pages_.size()) {
      exchange(num_indexed_, page);
    } else {
      pool_->add_reference(page);
      pages_.push_back(page);
    }
    ++num_indexed_;
    length_ += kPageTokens;
  }
  return length_ - before;
}

void Sequence::index(std::span<const std::int32_t> tokens) {
  const auto full_pages = static_cast<std::size_t>(length_ / kPageTokens);
  for (; num_indexed_ < full_pages; ++num_indexed_) {
    const std::int32_t known = find_page(num_indexed_, tokens);
    if (known != kNoPage) {
      exchange(num_indexed_, known);
      continue;
    }
    const std::int32_t parent = num_indexed_ == 0 ? kNoPage : pages_[num_indexed_ - 1];
    pool_->index(pages_[num_indexed_], parent, page_tokens(num_indexed_, tokens));
  }
}

Sequence Sequence::prefix(std::size_t pages) const {
  KV8_CHECK(pages <= num_indexed_, "{} pages of {} indexed ones", pages, num_indexed_);
  Sequence shared(*pool_);
  shared.pages_.assign(pages_.begin(), pages_.begin() + static_cast<std::ptrdiff_t>(pages));
  for (const std::int32_t page : shared.pages_) pool_->add_reference(page);
  shared.num_indexed_ = pages;
  shared.length_ = static_cast<std::int32_t>(pages) * kPageTokens;
  return shared;
}

std::int32_t Sequence::find_page(std::size_t number, std::span<const std::int32_t> tokens) const {
  const std::int32_t parent = number == 0 ? kNoPage : pages_[number - 1];
  return pool_->find(parent, page_tokens(number, tokens));
}

void Sequence::exchange(std::size_t number, std::int32_t page) {
  pool_->add_reference(page);
  pool_->release(std::exchange(pages_[number], page));
}

}  // namespace kv8::exec
