"""A real byte-level BPE tokenizer with a few merges, and chat templates of the families in use."""

from typing import Any

END = "<|im_end|>"
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", END),
    *("<|header|>", "<|/header|>", "<|eot|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
)
PLAIN_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")
MERGES = [("h", "a"), ("ha", "v"), ("i", "n"), ("in", "g"), ("hav", "ing"), ("Ċ", "Ċ"), (".", "Ċ")]
"""`having` is one token, which a model may as well sample as `hav` and `ing`."""

_TOOLS_HEAD = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
"""
_CALLS = """\
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
"""

STRIPPING = (
    _TOOLS_HEAD
    + """\
{%- set ns = namespace(last=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content %}
{%- if message.reasoning_content is defined %}
{%- set content = '<think>' + message.reasoning_content + '</think>' + content %}
{%- endif %}
{%- if '</think>' in content and loop.index0 < ns.last %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' + content }}
"""
    + _CALLS
    + """\
{{- '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
)
"""Drops the reasoning of answers before the last user's message."""

HEADED = """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are helpful. Today is ' + strftime_now('%H:%M:%S.%f') }}
{{- '<|im_end|>\\n' }}
{%- endif %}
""" + STRIPPING.replace("loop.index0 < ns.last", "true").replace(
    "'<|im_start|>assistant\\n' }}{%- endif",
    "'<|im_start|>assistant\\n<think>\\n' }}{%- endif",
)
"""Ends its prompts with `<think>`, tells the time, and has a system prompt of its own."""

LLAMA = """\
{{- '<s>' }}
{%- for message in messages %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|header|>' + role + '<|/header|>\\n\\n' }}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot|>' }}
{%- else %}
{{- message.content | trim + '<|eot|>' }}
{%- endif %}
{%- if loop.first and tools %}{{- '\\n' + (tools | tojson) }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\\n\\n' }}{%- endif %}
"""

MISTRAL = """\
{{- '<s>' }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' and message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
{%- endfor %}
{{- ']</s>' }}
{%- elif message.role == 'assistant' %}{{- ' ' + message.content + '</s>' }}
{%- elif message.role == 'tool' %}{{- '[INST] ' + message.content + ' [/INST]' }}
{%- else %}{{ raise_exception('no system messages') }}
{%- endif %}
{%- endfor %}
"""

GLM = """\
{%- for message in messages %}
{%- set role = 'observation' if message.role == 'tool' else message.role %}
{{- '<|' + role + '|>\\n' + message.content }}
"""
GLM += (
    _CALLS
    + """\
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}
"""
)
"""A turn ends where the next one begins; `<|user|>` and `<|observation|>` end an answer."""

BARE = """\
{%- for message in messages %}
{{- message.role | capitalize + ': ' + message.content | trim + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}
"""
"""Words only: nothing but a new line ends a turn. It leaves tool calls out."""

TEMPLATES = {
    "stripping": STRIPPING,
    "headed": HEADED,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "glm": GLM,
    "bare": BARE,
}
_ENDS = {
    "llama": ("<|eot|>", "<|endoftext|>"),
    "mistral": ("</s>",),
    "glm": ("<|endoftext|>", "<|user|>", "<|observation|>"),
    "bare": ("<|endoftext|>",),
}


def make_chat_tokenizer(template: str = "stripping") -> Any:
    """Return a `PreTrainedTokenizerFast` with one of `TEMPLATES`, or with a template's text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, normalized=False) for text in PLAIN_ADDED])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer


def end_ids(tokenizer: Any, template: str = "stripping") -> frozenset[int]:
    """Return the ids that end an answer of a model with that template."""
    ends = _ENDS.get(template, (END, "<|endoftext|>"))
    return frozenset(tokenizer.convert_tokens_to_ids(list(ends)))


def ids_of(tokenizer: Any, *pieces: str) -> list[int]:
    """Return the ids of texts encoded one by one, so that a test decides where tokens end."""
    return [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
