"""Decide what is kept of a data set, and write it for two trainers.

python jobs/examples/filter_and_export.py DATA
"""

import sys

import vigc

if __name__ == "__main__":
    data = vigc.open(sys.argv[1])
    data.filter(max_absent=0, max_words=200)
    for rule, num in data.summary["verdicts"]["rejected_by_reason"].items():
        print(f"rejected: {num} {rule}")
    print("LLaVA:       ", data.export("llava", multi_turn=True))
    print("Hugging Face:", data.export("huggingface"))
