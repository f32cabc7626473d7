"""Decide what is kept of a data set, and write it for two trainers.

python jobs/examples/filter_and_export.py DATA
"""

import sys

import vigc

if __name__ == "__main__":
    data = vigc.open(sys.argv[1])
    data.filter(max_absent=0, max_words=200)
    for kind, found in data.summary["kinds"].items():
        print(f"{kind}: {found['num_kept']} kept, rejected {found['rejected_by_reason']}")
    print("LLaVA:       ", data.export("llava", multi_turn=True))
    print("Hugging Face:", data.export("huggingface"))
