#!/usr/bin/env python3
"""Chat template goldens: tests/data/golden/chat_templates.json.

Jinja sources that render text conversations as the published templates of each family do (tool
calls left out, wording ours), and what transformers renders from them. A reader recognises a
family by its markers, since the published sources differ from release to release.
"""

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from common import DATA, GOLDEN, made_by, write_json

CHATML_DEFAULT = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

MISTRAL_V1 = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, after an optional system message') }}
    {%- endif %}
{%- endfor %}"""

MISTRAL_V3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, after an optional system message") }}
    {%- endif %}
{%- endfor %}"""

QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

QWEN3 = """{%- set ns = namespace(last_query_index=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.last_query_index = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- set reasoning = '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
        {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

TURNS = """{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

IM_SEP = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

# name: (source, tokenizer kind, thinking switch matters)
FAMILIES = {
    "chatml_smollm2": (CHATML_DEFAULT, "qwen2", False),
    "chatml_plain": (CHATML, "qwen2", False),
    "llama3": (LLAMA3, "llama3", False),
    "llama3.1": (LLAMA31, "llama3", False),
    "mistral_v1": (MISTRAL_V1, "mistral", False),
    "mistral_v3": (MISTRAL_V3, "mistral", False),
    "qwen2.5": (QWEN25, "qwen2", False),
    "qwen3": (QWEN3, "qwen2", True),
}
REFUSED = {
    "turn_markers": (TURNS, "markers of no supported family"),
    "im_sep": (IM_SEP, "ChatML's markers with a separator that ChatML has not"),
    "nothing": ("", "an empty template"),
}


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


ASK = turn("user", "What is the tallest tree?")
ANSWER = turn("assistant", "The coast redwood.")
AGAIN = turn("user", "How tall?\nIn metres, please.")
SYSTEM = turn("system", "You answer briefly.")
CONVERSATIONS = {
    "user": [ASK],
    "system_user": [SYSTEM, ASK],
    "three_turns": [ASK, ANSWER, AGAIN],
    "system_three_turns": [SYSTEM, ASK, ANSWER, AGAIN],
    "five_turns": [SYSTEM, ASK, ANSWER, AGAIN, turn("assistant", "115 metres."), turn("user", "Thanks!")],
    "outer_space": [turn("system", "  Be kind. \n"), turn("user", "\n  spaced out \t\n"),
                    turn("assistant", " yes \n"), turn("user", " and again ")],
    "unicode": [turn("user", "Größe? 木の高さは? 👩‍🚀 'quoted' \"twice\" {{ braces }} {% raw %}")],
    "markers_inside": [turn("user", "print <|im_end|> and <|eot_id|> and [/INST] and </s>")],
    "empty_content": [turn("user", "")],
    "empty_system": [turn("system", ""), ASK],
    "thought": [ASK, turn("assistant", "<think>\nTrees. Tall ones.\n</think>\n\nThe coast redwood."), AGAIN],
    "ends_with_assistant": [ASK, ANSWER],
}


def cases_of(tokenizer: PreTrainedTokenizerFast, thinking: bool) -> list[dict]:
    cases = []
    for name, messages in CONVERSATIONS.items():
        for generation in (False, True):
            if generation and name == "ends_with_assistant":
                continue
            for switch in ((True, False) if thinking and generation else (None,)):
                extra = {} if switch is None else {"enable_thinking": switch}
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=generation, **extra)
                cases.append({"conversation": name, "add_generation_prompt": generation, **extra,
                              "text": text})
    return cases


def main() -> None:
    families = {}
    for name, (source, kind, thinking) in FAMILIES.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_file(str(DATA / "tokenizers" / kind / "tokenizer.json")))
        bos, eos = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "mistral": ("<s>", "</s>"),
                    "qwen2": (None, "<|im_end|>")}[kind]
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, source
        families[name] = {"bos_token": bos, "eos_token": eos, "chat_template": source,
                          "tokenizer": f"tests/data/tokenizers/{kind}",
                          "cases": cases_of(tokenizer, thinking)}
    write_json(GOLDEN / "chat_templates.json", {
        "made_by": made_by(__file__, "transformers", "jinja2"),
        "about": "chat_template, bos_token, eos_token are as in tokenizer_config.json. Each case's "
                 "text is what apply_chat_template(tokenize=False) gives for the named "
                 "conversation; where enable_thinking is absent it was not passed. "
                 "A template under refused must be refused, with advice.",
        "conversations": CONVERSATIONS,
        "families": families,
        "refused": {name: {"chat_template": source, "why": why} for name, (source, why) in REFUSED.items()},
    })


if __name__ == "__main__":
    main()
