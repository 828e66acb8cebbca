#include "runtime/request.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <set>
#include <span>
#include <utility>

#include "base/file.h"
#include "base/json.h"

namespace kv8::runtime {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxBatchSize = 1024, kMaxTopK = 1'000'000, kMaxLogprobs = 50;
constexpr std::size_t kMaxLogitBias = 1024, kMaxStops = 64, kMaxStopBytes = 1024;
constexpr double kMaxTemperature = 100.0, kMaxBias = 100.0;

constexpr auto kSharedFields = std::to_array<std::string_view>(
    {"temperature", "top_p", "top_k", "seed", "max_generate_length", "num_logprobs", "logit_bias",
     "apply_chat_template", "add_generation_prompt", "enable_thinking"});
constexpr auto kFileFields = std::to_array<std::string_view>({"batch_size", "requests"});
constexpr auto kRequestFields = std::to_array<std::string_view>(
    {"messages", "stop", "save_system_prompt_kv_cache", "disable_spec_decode"});
constexpr auto kLineFields = std::to_array<std::string_view>(
    {"id", "messages", "stop", "save_system_prompt_kv_cache", "disable_spec_decode"});
constexpr auto kCancelFields = std::to_array<std::string_view>({"cancel"});
constexpr auto kMessageFields = std::to_array<std::string_view>({"role", "content"});
constexpr auto kPartFields = std::to_array<std::string_view>({"type", "text"});

/// Collects unknown fields, so that a field misspelt in a thousand requests is one warning.
class UnknownFields {
 public:
  using Names = std::span<const std::string_view>;

  void look(const Json& object, Names known, Names also_known, const std::string& where) {
    for (const auto& [name, value] : object.items()) {
      const auto is_name = [&name = name](std::string_view other) { return other == name; };
      if (std::ranges::any_of(known, is_name) || std::ranges::any_of(also_known, is_name)) continue;
      const auto [entry, is_new] = found_.try_emplace(name, where, 0);
      entry->second.second += 1;
    }
  }

  /// Warns of names that were not known at the call before.
  void warn(const Reporter& reporter) {
    for (const auto& [name, place] : found_) {
      const auto& [where, count] = place;
      if (!warned_.insert(name).second) continue;
      reporter.warn(count == 1 ? fmt::format("{}: unknown field `{}` is ignored", where, name)
                               : fmt::format("{}: unknown field `{}` is ignored (there and in {} "
                                             "more places)",
                                             where, name, count - 1));
    }
  }

 private:
  std::map<std::string, std::pair<std::string, int>> found_;
  std::set<std::string> warned_;
};

Result<float> number_in(const Json& object, std::string_view key, const std::string& where,
                        double min, double max, float fallback) {
  const double value = KV8_TRY(json_number_or(object, key, where, static_cast<double>(fallback)));
  if (value < min || value > max) {
    return bad_input("{}: field `{}` is {}, expected a number from {} to {}", where, key, value,
                     min, max);
  }
  return static_cast<float>(value);
}

Result<std::map<std::int32_t, float>> read_logit_bias(const Json& value, const std::string& where) {
  if (!value.is_object()) {
    return bad_input("{}: field `logit_bias` is {}, expected an object of token ids and numbers",
                     where, value.type_name());
  }
  if (value.size() > kMaxLogitBias) {
    return bad_input("{}: field `logit_bias` has {} entries, at most {} are allowed", where,
                     value.size(), kMaxLogitBias);
  }
  std::map<std::int32_t, float> bias;
  for (const auto& [key, number] : value.items()) {
    std::int32_t id = -1;
    const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (failure != std::errc() || end != key.data() + key.size() || id < 0) {
      return bad_input("{}: field `logit_bias` has the key `{}`, expected a token id", where, key);
    }
    bias[id] =
        KV8_TRY(number_in(value, key, where + ": field `logit_bias`", -kMaxBias, kMaxBias, 0.0f));
  }
  return bias;
}

Result<std::vector<std::string>> read_stops(const Json& value, const std::string& where) {
  std::vector<std::string> stops;
  if (value.is_string()) {
    stops.push_back(value.get<std::string>());
  } else if (value.is_array()) {
    for (const Json& entry : value) {
      if (!entry.is_string()) {
        return bad_input("{}: field `stop` holds {}, expected strings", where, entry.type_name());
      }
      stops.push_back(entry.get<std::string>());
    }
  } else {
    return bad_input("{}: field `stop` is {}, expected a string or a list of strings", where,
                     value.type_name());
  }
  if (stops.size() > kMaxStops) {
    return bad_input("{}: field `stop` has {} strings, at most {} are allowed", where, stops.size(),
                     kMaxStops);
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return bad_input("{}: field `stop` holds a string of {} bytes, expected 1 to {}", where,
                       stop.size(), kMaxStopBytes);
    }
  }
  return stops;
}

/// Reads the fields that a file may set for all requests and a request for itself.
Status read_shared(const Json& object, const std::string& where, Request& request) {
  SamplingParams& sampling = request.sampling;
  const auto whole = [&](std::string_view key, std::int64_t min, std::int64_t max,
                         std::int64_t fallback) {
    return json_int_or(object, key, where, min, max, fallback);
  };
  sampling.temperature =
      KV8_TRY(number_in(object, "temperature", where, 0.0, kMaxTemperature, sampling.temperature));
  sampling.top_p = KV8_TRY(number_in(object, "top_p", where, 0.0, 1.0, sampling.top_p));
  sampling.top_k = static_cast<std::int32_t>(KV8_TRY(whole("top_k", 0, kMaxTopK, sampling.top_k)));
  sampling.max_generate_length = static_cast<std::int32_t>(
      KV8_TRY(whole("max_generate_length", 1, kMaxInt32, sampling.max_generate_length)));
  sampling.num_logprobs = static_cast<std::int32_t>(
      KV8_TRY(whole("num_logprobs", 0, kMaxLogprobs, sampling.num_logprobs)));
  sampling.seed =
      static_cast<std::uint64_t>(KV8_TRY(whole("seed", 0, std::numeric_limits<std::int64_t>::max(),
                                               static_cast<std::int64_t>(sampling.seed))));
  if (const auto bias = object.find("logit_bias"); bias != object.end() && !bias->is_null()) {
    sampling.logit_bias = KV8_TRY(read_logit_bias(*bias, where));
  }
  request.apply_chat_template =
      KV8_TRY(json_bool_or(object, "apply_chat_template", where, request.apply_chat_template));
  request.add_generation_prompt =
      KV8_TRY(json_bool_or(object, "add_generation_prompt", where, request.add_generation_prompt));
  request.enable_thinking =
      KV8_TRY(json_bool_or(object, "enable_thinking", where, request.enable_thinking));
  return {};
}

Result<std::string> read_content(const Json& message, const std::string& where,
                                 UnknownFields& unknown) {
  const auto content = message.find("content");
  if (content == message.end() || !content->is_array()) {
    return json_string(message, "content", where);
  }
  std::string text;
  for (std::size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string part_where = fmt::format("{}.content[{}]", where, i);
    if (!part.is_object()) {
      return bad_input("{}: is {}, expected {{\"type\": \"text\", \"text\": …}}", part_where,
                       part.type_name());
    }
    unknown.look(part, kPartFields, {}, part_where);
    const std::string type = KV8_TRY(json_string(part, "type", part_where));
    if (type != "text") {
      return unsupported("{}: content of type `{}` is not supported, only `text`", part_where,
                         type);
    }
    text += KV8_TRY(json_string(part, "text", part_where));
  }
  return text;
}

Status read_messages(const Json& object, const std::string& where, UnknownFields& unknown,
                     Request& request) {
  const auto messages = object.find("messages");
  if (messages == object.end()) return bad_input("{}: field `messages` is missing", where);
  if (!messages->is_array() || messages->empty()) {
    return bad_input("{}: field `messages` is {}, expected a list of at least one message", where,
                     messages->is_array() ? "an empty list" : messages->type_name());
  }
  for (std::size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string message_where = fmt::format("{}.messages[{}]", where, i);
    if (!message.is_object()) {
      return bad_input("{}: is {}, expected an object with `role` and `content`", message_where,
                       message.type_name());
    }
    unknown.look(message, kMessageFields, {}, message_where);
    std::string role = KV8_TRY(json_string(message, "role", message_where));
    std::string content = KV8_TRY(read_content(message, message_where, unknown));
    request.messages.push_back({std::move(role), std::move(content)});
  }
  const auto is_empty = [](const text::ChatMessage& message) { return message.content.empty(); };
  if (std::ranges::all_of(request.messages, is_empty)) {
    return bad_input("{}: the prompt is empty", where);
  }
  return {};
}

Status read_request(const Json& object, UnknownFields::Names fields, const std::string& where,
                    UnknownFields& unknown, Request& request) {
  if (!object.is_object()) {
    return bad_input("{}: is {}, expected an object", where, object.type_name());
  }
  unknown.look(object, kSharedFields, fields, where);
  KV8_TRY(read_messages(object, where, unknown, request));
  KV8_TRY(read_shared(object, where, request));
  if (const auto stop = object.find("stop"); stop != object.end() && !stop->is_null()) {
    request.sampling.stop = KV8_TRY(read_stops(*stop, where));
  }
  request.save_system_prompt_kv_cache =
      KV8_TRY(json_bool_or(object, "save_system_prompt_kv_cache", where, false));
  // Nothing here speculates, so asking for no speculation is always granted.
  KV8_TRY(json_bool_or(object, "disable_spec_decode", where, false));
  return {};
}

void apply_overrides(const RequestOverrides& overrides, Request& request) {
  if (overrides.max_generate_length) {
    request.sampling.max_generate_length = *overrides.max_generate_length;
  }
  if (overrides.num_logprobs) request.sampling.num_logprobs = *overrides.num_logprobs;
}

/// A string or an integer, as JSON text.
Result<std::string> read_id(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_string() && !value.is_number_integer()) {
    return bad_input("{}: field `{}` is {}, expected a string or an integer", where, key,
                     value.type_name());
  }
  return value.dump();
}

Status read_line(std::string_view text, const std::string& where, UnknownFields& unknown,
                 RequestLine& line) {
  const Json object = KV8_TRY(parse_json(text, where));
  if (object.is_object()) {
    if (const auto cancel = object.find("cancel"); cancel != object.end()) {
      unknown.look(object, kCancelFields, {}, where);
      line.id = KV8_TRY(read_id(*cancel, "cancel", where));
      line.cancel = true;
      return {};
    }
    if (const auto id = object.find("id"); id != object.end() && !id->is_null()) {
      line.id = KV8_TRY(read_id(*id, "id", where));
    }
  }
  return read_request(object, kLineFields, where, unknown, line.request);
}

}  // namespace

struct RequestLines::State {
  RequestOverrides overrides;
  Reporter reporter;
  UnknownFields unknown;
  std::uint64_t num_requests = 0;
};

RequestLines::RequestLines(const RequestOverrides& overrides, const Reporter& reporter)
    : state_(std::make_unique<State>(State{overrides, reporter, {}, 0})) {}
RequestLines::~RequestLines() = default;

RequestLine RequestLines::parse(std::string_view text) {
  RequestLine line;
  line.request.sampling.seed = state_->num_requests;
  const std::string where = fmt::format("request {}", state_->num_requests);
  const Status status = read_line(text, where, state_->unknown, line);
  if (!status.ok()) line.request.error = status.error();
  if (!line.cancel) ++state_->num_requests;
  apply_overrides(state_->overrides, line.request);
  state_->unknown.warn(state_->reporter);
  return line;
}

RequestLine RequestLines::broken(Error error) {
  RequestLine line;
  line.request.error = error.within(fmt::format("request {}", state_->num_requests++));
  return line;
}

Result<RequestFile> parse_request_file(std::string_view text, std::string_view source,
                                       const RequestOverrides& overrides,
                                       const Reporter& reporter) {
  const Json root = KV8_TRY(parse_json(text, source));
  const std::string name(source);
  if (!root.is_object()) {
    return bad_input("{}: is {}, expected an object with the field `requests`", name,
                     root.type_name());
  }
  UnknownFields unknown;
  unknown.look(root, kSharedFields, kFileFields, name);
  RequestFile file;
  file.path = name;
  Request defaults;
  KV8_TRY(read_shared(root, name, defaults));
  file.batch_size = static_cast<std::int32_t>(
      KV8_TRY(json_int_or(root, "batch_size", name, 1, kMaxBatchSize, 1)));
  if (overrides.batch_size) file.batch_size = *overrides.batch_size;

  const auto requests = root.find("requests");
  if (requests == root.end()) return bad_input("{}: field `requests` is missing", name);
  if (!requests->is_array() || requests->empty()) {
    return bad_input("{}: field `requests` is {}, expected a list of at least one request", name,
                     requests->is_array() ? "an empty list" : requests->type_name());
  }
  for (std::size_t i = 0; i < requests->size(); ++i) {
    Request request = defaults;
    request.sampling.seed += i;
    const std::string where = fmt::format("{}: requests[{}]", name, i);
    const Status status = read_request((*requests)[i], kRequestFields, where, unknown, request);
    if (!status.ok()) request.error = status.error();
    apply_overrides(overrides, request);
    file.requests.push_back(std::move(request));
  }
  unknown.warn(reporter);
  return file;
}

Result<RequestFile> read_request_file(const std::filesystem::path& file,
                                      const RequestOverrides& overrides, const Reporter& reporter) {
  const std::string text = KV8_TRY(read_text_file(file, std::uint64_t{1} << 28));
  return parse_request_file(text, file.string(), overrides, reporter);
}

}  // namespace kv8::runtime
