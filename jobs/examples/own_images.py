"""Your own images, the kinds of conversation that you need, and a model behind an endpoint.

    python jobs/examples/own_images.py PHOTOS OUT [MODEL]

MODEL is the address of a server, such as http://localhost:8000/v1, a folder or a hub id. Without one the embedded model
answers, which knows rendered scenes only.
"""

import sys

import vigc

if __name__ == "__main__":
    photos, out, *model = sys.argv[1:]
    data = vigc.generate(
        photos,
        out=out,
        model=model[0] if model else None,
        kinds=["conversation", "detail"],
        policy="paper",
        set={"max_steps": 6},  # at most six sentences
        limit=10,
    )
    for row in data.rows(["image_id", "conversations"]):
        for talk in row["conversations"]:
            print(row["image_id"], talk["kind"])
            print("  asked:    ", talk["question"])
            print("  at first: ", talk["vig_answer"])
            print("  corrected:", talk["answer"])
