"""The student: a byte-level BPE tokenizer and a small Llama, both made from nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    logging,
)

PADDING, END = "<|endoftext|>", "<|end|>"
SPECIAL = (PADDING, END, "<|system|>", "<|user|>", "<|assistant|>")
CONTEXT = 512  # positions
HEAD = 64  # width of an attention head: the smallest that every vLLM attention backend takes

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Student:
    """Tokenizer and model together; asks and answers in the chat template."""

    def __init__(self, texts: Iterable[str], *, vocabulary: int, hidden: int, layers: int) -> None:
        """Train the tokenizer on `texts` and draw the model's weights from torch's generator."""
        self.tokenizer = _tokenizer(texts, vocabulary)
        self.model = _llama(self.tokenizer, hidden, layers)

    def prompt_ids(self, question: str, system: str = "") -> list[int]:
        """Token ids of one user turn, up to where the answer starts."""
        messages = [{"role": "user", "content": question}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return self.text_ids(str(text))

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer with its end mark."""
        return [*self.text_ids(answer), self.tokenizer.convert_tokens_to_ids(END)]

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text, as it stands."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @torch.no_grad()
    def answers(self, questions: Sequence[str], room: int, batch: int = 64) -> list[str]:
        """Greedy answers of at most `room` tokens, in the order of `questions`."""
        self.model.eval()
        found: list[str] = []
        for start in range(0, len(questions), batch):
            prompts = [{"input_ids": self.prompt_ids(q)} for q in questions[start : start + batch]]
            padded = self.tokenizer.pad(prompts, return_tensors="pt")
            ids = self.model.generate(**padded, max_new_tokens=room, do_sample=False)
            tails = ids[:, padded["input_ids"].shape[1] :]
            found += self.tokenizer.batch_decode(tails, skip_special_tokens=True)
        return found

    def recall(self, pairs: Sequence[tuple[str, str]]) -> float:
        """Mean ROUGE-L recall of the greedy answers to (question, answer) pairs."""
        by_length = sorted(pairs, key=lambda pair: len(pair[1]))  # short ones finish together
        half = len(by_length) // 2
        total = 0.0
        for part in (by_length[:half], by_length[half:]):
            room = max((len(self.text_ids(answer)) for _, answer in part), default=0) + 8
            answers = self.answers([question for question, _ in part], room)
            total += sum(rouge_l_recall(a, b) for (_, a), b in zip(part, answers, strict=True))
        return total / len(pairs)

    def save(self, directory: Path) -> None:
        """Write model (bfloat16) and tokenizer as vLLM and transformers load them."""
        logging.disable_progress_bar()  # one file, written at once
        self.model.to(torch.bfloat16).save_pretrained(directory)
        self.model.to(torch.float32)  # the same values; a CPU computes faster with them
        self.tokenizer.save_pretrained(directory)


def rouge_l_recall(reference: str, candidate: str) -> float:
    """Longest common subsequence of words over the reference's words (Lin 2004, ROUGE-L)."""
    wanted, given = (re.findall(r"\w+", text.lower()) for text in (reference, candidate))
    lengths = [0] * (len(given) + 1)
    for word in wanted:
        diagonal = 0
        for column, other in enumerate(given, 1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1] / max(1, len(wanted))


def _tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PADDING,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _llama(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // HEAD,
            num_key_value_heads=hidden // HEAD,
            head_dim=HEAD,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ends,
        )
    )
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    return model
