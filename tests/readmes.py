"""READMEs as people write them, each with something in it that a careless editor would change."""

from __future__ import annotations

_FOREIGN = """model-index:
- name: theirs   # do not rename
  results:
  - task: {type: text-generation, name: "Text Generation"}
    dataset:
      type: 'wikitext'
      name: WikiText
      config: wikitext-2-raw-v1
    metrics:
    - type: perplexity
      value: 21.30   # not 21.3
      args: {stride: 512}
    # ours is better on Tuesdays
    -   type: accuracy
        value: 4.5e-1
        verified: false
    source:
      name: a leaderboard
      url: https://example.org/board
"""

READMES: dict[str, str] = {
    "empty": "",
    "plain": "# A model\n\nIt does things.\n",
    "no newline at the end": "# A model\n\nIt does things.",
    "only front matter": "---\nlicense: mit\n---\n",
    "front matter without newline": "---\nlicense: mit\n---",
    "windows": "---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n# A model\r\n\r\nText.\r\n",
    "windows without front matter": "# A model\r\n\r\nText.",
    "windows, foreign index": f"---\nlicense: mit\n{_FOREIGN}tags: [x]\n---\n# A model\n".replace("\n", "\r\n"),
    "byte order mark": "\ufeff---\nlicense: mit\n---\n# A model\n",
    "byte order mark without front matter": "\ufeff# A model\n",
    "unicode": "---\nlanguage: 中文\nname: \"Żółw 🐢\"  # ünïcödé 👩‍🔬\n---\n"
    "# مرحبا 🤗\n\nλ̂\u00a0≈ 7\u202f%\u2028x\x0cy\n",
    "html": "---\nlicense: mit\n---\n<!-- a\n\nlong\n<!-- hf_llc:begin -->\n# A <br/> model <!-- inline -->\n"
    "`<!--` in code\n<details>\n\n|a|b|\n|-|-|\n\n</details>\n<!-- hf_llc:end -->\n",
    "foreign index at the end": f"---\nlicense: mit\n{_FOREIGN}---\n# A model\n",
    "foreign index in the middle": f"---\n{_FOREIGN}\n# tags of ours\ntags:\n  - b\n  - a\n---\n# A model\n",
    "foreign index, indented": "---\nmodel-index:\n    -   name: x\n        results:\n            -   task:\n"
    "                    type: a\n                dataset: {type: d, name: D}\n                metrics:\n"
    "                    -   {type: f1, value: .5}\n      # the end\nlicense: mit\n---\nText\n",
    "two models": "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n    dataset: {type: d, name: D}\n"
    "    metrics: [{type: f1, value: 0.10}]\n- name: y\n  results:\n  - task: {type: a}\n"
    "    dataset: {type: e, name: E}\n    metrics: [{type: f1, value: 0.20}]\n---\n",
    "index in one line": "---\nmodel-index: [{name: x, results: [{task: {type: a}, dataset: {type: d, name: D}, "
    "metrics: [{type: f1, value: 1e-3}]}]}] # short\nlicense: mit\n---\nText\n",
    "index in brackets over lines": "---\nmodel-index: [\n  {name: x, results: [\n    {task: {type: a}, "
    "dataset: {type: d, name: D}, metrics: [{type: f1, value: 0.50}]}, # first\n  ]}\n]\n---\nText\n",
    "empty index": "---\nmodel-index: []\nlicense: mit\n---\nText\n",
    "index without value": "---\nmodel-index:\nlicense: mit\n---\nText\n",
    "results without value": "---\nmodel-index:\n- name: x\n  results:\nlicense: mit\n---\nText\n",
    "quoted key": '---\n"model-index":\n- name: x\n  results: []\n? license\n: mit\n---\nText\n',
    "json": '---\n{"license": "mit", "tags": ["a", "b"], }\n---\n# A model\n',
    "anchors": "---\n# about\nbase: &base {lr: 1e-3, on: yes}   # YAML 1.1\ntags: &tags\n- z\n- a\nrun:\n  <<: *base\n"
    "  tags: *tags\nlicense:    mit\nold: 012\n---\n# A model\n",
    "anchor in the index": "---\nmodel-index:\n- name: x\n  results:\n  - task: &task {type: a}\n"
    "    dataset: &data\n      type: d\n      name: D\n    metrics: &m\n    - {type: f1, value: 0.5}\n"
    "same: *data\n---\n",
    "block scalar last": "---\nlicense: mit\nabout: |+\n  words\n\n---\n# A model\n",
    "block scalar in the index": "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n"
    "    dataset: {type: d, name: D}\n    metrics:\n    - type: f1\n      value: >-\n        0.5\n        or so\n\n"
    "# c\ntags: [a]\n---\n",
    "indented front matter": "---\n  license: mit\n  tags: [a]\n---\nText\n",
    "empty front matter": "---\n---\n# A model\n\n---\n\nMore\n",
    "front matter of comments": "---\n# nothing yet\n---\n# A model\n",
    "rules, not front matter": "---\n\nA model between rules\n\n---\n\nText\n",
    "blank lines first": "\n\n---\nlicense: mit\n---\n\n\n\n# A model\n\n\n\n",
    "markers in a code fence": "# How\n\n````md\n```\n<!-- hf_llc:begin -->\n```\n<!-- hf_llc:end -->\n````\n\n"
    "- ~~~\n  <!-- hf_llc:begin -->\n  ~~~\n\n    <!-- hf_llc:begin -->\n",
    "unclosed fence": "# A model\n\n```python\nprint(1)\n",
    "unclosed comment": "# A model\n\n<!-- to be\n\ncontinued\n",
    "mixed line ends": "---\r\nlicense: mit\n---\r\n# A\rmodel \t\n\r\nText  \r\n\n",
    "front matter's look-alike": "# A model\n\n---\nlicense: mit\n---\n",
    "lone end marker": "# A model\n\n<!-- hf_llc:end -->\n",
}  # fmt: skip
