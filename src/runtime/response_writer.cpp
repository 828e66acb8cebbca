#include "base/json.h"
#include "runtime/generate.h"

namespace kv8::runtime {
namespace {

Json token_json(const TokenLogprob& token) {
  Json bytes = Json::array();
  for (const char byte : token.bytes) bytes.push_back(static_cast<unsigned char>(byte));
  Json json;
  json["token"] = text::replace_broken_utf8(token.bytes);
  json["token_id"] = token.token_id;
  json["bytes"] = std::move(bytes);
  json["logprob"] = token.logprob;
  return json;
}

Json logprobs_json(const std::vector<LogprobEntry>& entries) {
  Json list = Json::array();
  for (const LogprobEntry& entry : entries) {
    Json json = token_json(entry.chosen);
    json["top_logprobs"] = Json::array();
    for (const TokenLogprob& token : entry.top) json["top_logprobs"].push_back(token_json(token));
    list.push_back(std::move(json));
  }
  return list;
}

Json response_json(const Request& request, const Response& response, Json json = {}) {
  json["output_text"] = response.output_text;
  json["request_idx"] = response.request_idx;
  json["batch_idx"] = response.batch_idx;
  json["finish_reason"] = finish_reason_name(response.finish_reason);
  json["messages"] = Json::array();
  for (const text::ChatMessage& message : request.messages) {
    json["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  json["formatted_system_prompt"] = response.formatted_system_prompt;
  json["formatted_complete_request"] = response.formatted_complete_request;
  if (request.sampling.num_logprobs > 0) json["logprobs"] = logprobs_json(response.logprobs);
  if (response.error) {
    json["error"] = {{"code", error_code_name(response.error->code)},
                     {"message", response.error->message}};
  }
  return json;
}

}  // namespace

Status write_response_file(const RequestFile& requests, const std::vector<Response>& responses,
                           const std::filesystem::path& file) {
  KV8_CHECK(requests.requests.size() == responses.size(), "{} requests, {} responses",
            requests.requests.size(), responses.size());
  Json json;
  json["input_file"] = requests.path;
  json["responses"] = Json::array();
  for (std::size_t i = 0; i < responses.size(); ++i) {
    json["responses"].push_back(response_json(requests.requests[i], responses[i]));
  }
  return write_json_file(file, json);
}

std::string response_line(const std::string& id, const Request& request, const Response& response) {
  Json json;
  if (!id.empty()) json["id"] = Json::parse(id);
  return response_json(request, response, std::move(json))
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace kv8::runtime
