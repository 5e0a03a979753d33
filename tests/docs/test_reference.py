"""Commands, options, settings and error codes are documented, all of them and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import reference
from docs.pages import first_column, page
from pennyreel import config
from pennyreel.cli.app import COMMANDS, DEBUG_ENV, cli
from pennyreel.cli.exits import EXITS
from pennyreel_comfy.templates import list_templates
from pennyreel_contract import Code

HOW = "run: python tests/docs/reference.py"


@pytest.mark.parametrize("name", reference.PARTS)
def test_the_generated_part_of_a_page_is_what_the_code_says(name: str) -> None:
    text = page(name).text
    assert text == reference.renewed(name, text), HOW


def test_every_command_and_option_is_in_cli_md() -> None:
    text = page("docs/cli.md").text
    for name, command in reference.commands():
        _, _, section = text.partition(f"\n## {name}")
        section = section.partition("\n## ")[0]
        assert section, f"{name} is missing; {HOW}"
        for option in reference.options(command):
            for spelling in option.opts:
                assert f"`{spelling}" in section, f"{name} {spelling}; {HOW}"
    for option in reference.options(cli):
        assert f"`{option.opts[0]}`" in text


def test_every_option_says_what_it_does() -> None:
    silent = {
        option.opts[-1]
        for _, command in [("pennyreel", cli), *reference.commands()]
        for option in reference.options(command)
        if not option.help
    }
    assert silent <= set(reference.HELPLESS)


def test_the_readme_has_every_command() -> None:
    named = set(first_column(page("README.md").section("Commands")))
    assert named == {name for name, _ in reference.commands()}
    assert {name.split()[1] for name in named} == set(COMMANDS)


def test_the_settings_in_configuration_md_are_those_of_the_code() -> None:
    text = page("docs/configuration.md").text
    named = set(
        re.findall(r"`((?:PENNYREEL|RUNPOD|HF|CIVITAI|REPLICATE|GEMINI|GOOGLE)_[A-Z0-9_]+)`", text)
    )
    known = {field.env for field in config.FIELDS.values()}
    assert named == known | {config.CONFIG_ENV, DEBUG_ENV, "PENNYREEL_TEST_COMFYUI"}
    for field in config.FIELDS.values():
        assert f"`{field.toml}`" in text


def test_the_example_file_is_one_that_is_read(tmp_path: Path) -> None:
    (example,) = page("docs/configuration.md").fences("toml")
    file = tmp_path / "config.toml"
    file.write_text(example, "utf-8")
    settings = config.load({config.CONFIG_ENV: str(file)})
    assert settings.backend == "runpod"
    assert settings.runpod_endpoint == "abc123"
    assert settings.config_file == file


def test_every_error_code_is_in_errors_md() -> None:
    text = page("docs/errors.md").text
    table = text.partition("<!-- begin generated: errors -->")[2]
    assert first_column(table) == [code.value for code in Code]


def test_the_readme_has_the_exit_codes_of_the_code() -> None:
    rows = page("README.md").section("Exit codes").splitlines()
    told = [row.strip("| ").split(" | ") for row in rows if row.startswith("|")][2:]
    assert told == [[str(e.code), e.meaning] for e in EXITS]


def test_the_readme_has_the_templates_that_are_shipped() -> None:
    named = first_column(page("README.md").section("Templates"))
    assert named == sorted(named, key=lambda n: n != "hello-video")
    assert sorted(named) == [t.name for t in list_templates()]
