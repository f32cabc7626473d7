"""First data: twenty rendered scenes, a data set of them, and what is in it.

python jobs/examples/first_data.py [FOLDER]
"""

import sys
from pathlib import Path

import vigc
from vigc.jobs.scenes import make_scenes

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "first_data")

if __name__ == "__main__":
    make_scenes(folder / "scenes", num=20, seed=7)
    data = vigc.generate(folder / "scenes", out=folder / "data")
    print(data.to_pandas()[["image_id", "kind", "question", "answer"]].head())
    print("kept:", data.summary["num_kept"], "rejected:", data.summary["num_rejected"])
    print("every image exactly once:", data.verify().ok)
    print("look at it:", data.report())
