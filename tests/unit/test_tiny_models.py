"""The models that demo and miniature train on the spot, as they are read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jobs.demo import tiny_models
from jobs.demo.facts import train_questions
from jobs.miniature.skills import load_skill


def test_a_model_knows_numbers_as_its_tokenizer_reads_them_later(tmp_path: Path) -> None:
    """transformers' tokenizer of Qwen2 cuts numbers into digits when it is loaded, whatever was saved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    skill = load_skill("numerals")
    known = train_questions(replace(skill, facts=skill.facts[10:12]))
    texts = [f"{question.prompt} {question.answer}" for question in known]
    recipe = tiny_models.Recipe(num_steps=60, seed=1, sentence_share=0.0, batch_size=4)
    tiny_models.make_trained_model(replace(tiny_models.QWEN2, vocabulary_size=800), texts, known, recipe, tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    for question in (known[0], known[-1]):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        said = model.generate(asked, max_new_tokens=32, do_sample=False)[0, asked.shape[1] :]
        assert tokenizer.decode(said, skip_special_tokens=True) == question.answer
