#include "io/strict_json.h"

#include <set>
#include <vector>

#include "io/messages.h"

namespace kv8::io {
namespace {

/// Thrown from inside the parser's callback, which has no other way to stop it.
struct Refusal {
  std::string reason;
};

}  // namespace

Result<MapJson> parse_strict_json(std::string_view text, std::string_view source, int max_depth) {
  using Event = MapJson::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Event event, MapJson& parsed) {
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth) {
        throw Refusal{fmt::format("is nested deeper than {} levels", max_depth)};
      }
      if (event == Event::object_start) keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        throw Refusal{fmt::format("has the key \"{}\" twice", printable(key))};
      }
    }
    return true;
  };
  try {
    MapJson value = MapJson::parse(text, check);
    if (!value.is_object()) return bad_input("{} is not a JSON object", source);
    return value;
  } catch (const Refusal& refusal) {
    return bad_input("{} {}", source, refusal.reason);
  } catch (const MapJson::parse_error& failure) {
    return bad_input("{} is not valid JSON (byte {})", source, failure.byte);
  } catch (const MapJson::exception& failure) {
    return bad_input("{} is not valid JSON: {}", source, failure.what());
  }
}

}  // namespace kv8::io
