"""Small tokenizers of the kinds that Llama-3, Qwen2/3, Llama-2 and Mistral use.

Same normalizers, pre-tokenizers, post-processors and decoders; vocabularies of a few thousand,
trained on the project's own texts. Written to tests/data/tokenizers/<kind>/.
"""

import io
import json
import re
from pathlib import Path

import gguf
import sentencepiece as spm
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from common import DATA
from corpus import Maker

TOKENIZERS = DATA / "tokenizers"
# The published split rules; they differ only in how many digits stay together.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPECIAL = (["<|begin_of_text|>", "<|end_of_text|>"]
                  + [f"<|reserved_special_token_{i}|>" for i in range(2)]
                  + ["<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
                     "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"])
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>",
                "<|object_ref_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<think>", "</think>"]
MISTRAL_SPECIAL = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]


def training_texts() -> list[str]:
    maker = Maker(7)
    texts = [p for t in maker.texts for p in t.split("\n\n")]
    return texts + [maker.babble(120) for _ in range(400)] + [maker.program(12) for _ in range(100)]


def added(first_id: int, contents: list[str], special: bool) -> list[dict]:
    return [{"id": first_id + i, "content": c, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": special}
            for i, c in enumerate(contents)]


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space,
            "trim_offsets": trim_offsets, "use_regex": use_regex}


def template(bos: str, bos_id: int) -> dict:
    piece = lambda kind, type_id: {kind: {"id": "A" if type_id == 0 else "B", "type_id": type_id}}
    special = lambda type_id: {"SpecialToken": {"id": bos, "type_id": type_id}}
    return {"type": "TemplateProcessing", "single": [special(0), piece("Sequence", 0)],
            "pair": [special(0), piece("Sequence", 0), special(1), piece("Sequence", 1)],
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}}


def train_byte_level(digits: str, nfc: bool, vocab_size: int) -> tuple[dict, list]:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT % digits), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]


def bpe(vocab: dict, merges: list, **changes) -> dict:
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": False, "vocab": vocab, "merges": merges}
    return {**model, **changes}


def document(added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model) -> dict:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "decoder": decoder, "model": model}


def write(kind: str, tokenizer: dict, bos: str | None, eos: str, **config) -> None:
    folder = TOKENIZERS / kind
    folder.mkdir(parents=True, exist_ok=True)
    decoder = {str(a["id"]): {k: v for k, v in a.items() if k != "id"}
               for a in tokenizer["added_tokens"]}
    full = {"added_tokens_decoder": decoder, "bos_token": bos, "eos_token": eos,
            "clean_up_tokenization_spaces": False, "model_max_length": 8192,
            "tokenizer_class": "PreTrainedTokenizerFast", **config}
    for name, value, indent in (("tokenizer", tokenizer, None), ("tokenizer_config", full, 1)):
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def split_rule(digits: str, trim_offsets: bool) -> dict:
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLIT % digits}, "behavior": "Isolated",
         "invert": False},
        byte_level(False, trim_offsets, False)]}


def make_llama3() -> None:
    vocab, merges = train_byte_level(r"\p{N}{1,3}", nfc=False, vocab_size=5000)
    # ignore_merges: whole words that no merge can reach must still come out as one token.
    words = sorted({"Ġ" + w for w in re.findall(r"\b[a-z]{11,}\b", " ".join(training_texts()))} - set(vocab))
    vocab.update({w: len(vocab) + i for i, w in enumerate(words[::5][:80])})
    tokens = added(len(vocab), LLAMA3_SPECIAL, special=True)
    bos = LLAMA3_SPECIAL[0]
    post = {"type": "Sequence", "processors": [byte_level(True, False, True),
                                               template(bos, tokens[0]["id"])]}
    # Merges in the older spelling, one string each.
    model = bpe(vocab, [" ".join(m) for m in merges], ignore_merges=True)
    write("llama3", document(tokens, None, split_rule(r"\p{N}{1,3}", True), post,
                             byte_level(True, True, True), model), bos, "<|eot_id|>")


def make_qwen2() -> None:
    vocab, merges = train_byte_level(r"\p{N}", nfc=True, vocab_size=4500)
    tokens = added(len(vocab), QWEN_SPECIAL, True)
    tokens += added(len(vocab) + len(tokens), QWEN_PLAIN, False)
    model = bpe(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="")
    write("qwen2", document(tokens, {"type": "NFC"}, split_rule(r"\p{N}", False),
                            byte_level(False, False, False), byte_level(False, False, False), model),
          None, "<|im_end|>", add_prefix_space=False, add_bos_token=False, pad_token="<|endoftext|>")


def train_sentencepiece(vocab_size: int, control: list[str]) -> spm.SentencePieceProcessor:
    out = io.BytesIO()
    lines = [line for text in training_texts() for line in text.split("\n") if line]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=vocab_size,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, allow_whitespace_only_pieces=True,
        character_coverage=0.9995, max_sentence_length=65536, num_threads=1,
        control_symbols=control, minloglevel=2)
    return spm.SentencePieceProcessor(model_proto=out.getvalue())


def merges_of(model: spm.SentencePieceProcessor, vocab: dict) -> list:
    """A piece with a better score is merged earlier; every split into known pieces counts."""
    found = []
    for piece, i in vocab.items():
        if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i)):
            local = [(piece[:k], piece[k:]) for k in range(1, len(piece))
                     if piece[:k] in vocab and piece[k:] in vocab]
            local.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
            found.extend((pair, model.get_score(i)) for pair in local)
    found.sort(key=lambda entry: entry[1], reverse=True)
    return [list(pair) for pair, _ in found]


SENTENCEPIECE_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def sentencepiece_document(model: spm.SentencePieceProcessor, control: list[str], normalizer,
                           pre_tokenizer) -> dict:
    vocab = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    tokens = added(0, ["<unk>", "<s>", "</s>"] + control, special=True)
    assert all(vocab[t["content"]] == t["id"] for t in tokens)
    return document(tokens, normalizer, pre_tokenizer, template("<s>", 1), SENTENCEPIECE_DECODER,
                    bpe(vocab, merges_of(model, vocab), unk_token="<unk>", fuse_unk=True,
                        byte_fallback=True))


def write_gguf(model: spm.SentencePieceProcessor) -> None:
    """The Llama-2 kind's vocabulary as a GGUF file without tensors: pieces, scores, types."""
    writer = gguf.GGUFWriter(TOKENIZERS / "llama2_vocab.gguf", "llama")
    count = model.get_piece_size()
    kind = gguf.TokenType
    types = [kind.UNKNOWN if model.is_unknown(i) else kind.CONTROL if model.is_control(i)
             else kind.BYTE if model.is_byte(i) else kind.NORMAL for i in range(count)]
    writer.add_vocab_size(count)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(0)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([model.id_to_piece(i) for i in range(count)])
    writer.add_token_scores([model.get_score(i) for i in range(count)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_llama2() -> spm.SentencePieceProcessor:
    model = train_sentencepiece(4000, [])
    normalizer = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    write("llama2", sentencepiece_document(model, [], normalizer, None), "<s>", "</s>",
          add_bos_token=True, add_eos_token=False, legacy=False, unk_token="<unk>")
    write_gguf(model)
    return model


def make_mistral() -> spm.SentencePieceProcessor:
    model = train_sentencepiece(4200, MISTRAL_SPECIAL)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    write("mistral", sentencepiece_document(model, MISTRAL_SPECIAL, None, metaspace), "<s>", "</s>",
          add_bos_token=True, add_eos_token=False, legacy=False, unk_token="<unk>")
    return model


def make_all() -> dict:
    """Writes the four folders; returns the SentencePiece models as a second opinion."""
    make_llama3()
    make_qwen2()
    return {"llama2": make_llama2(), "mistral": make_mistral()}
