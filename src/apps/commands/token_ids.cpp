#include "apps/commands/token_ids.h"

#include "base/json.h"

namespace kv8::apps {

Result<std::vector<std::int32_t>> read_token_ids(const std::string& file, std::int32_t vocab_size) {
  const Json json = KV8_TRY(read_json_file(file));
  if (!json.is_array() || json.empty()) {
    return bad_input("{}: expected a non-empty array of token ids", file);
  }
  std::vector<std::int32_t> ids;
  for (const Json& id : json) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() >= vocab_size) {
      return bad_input("{}: {} is not a token id of this model (0 to {})", file, id.dump(),
                       vocab_size - 1);
    }
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

}  // namespace kv8::apps
