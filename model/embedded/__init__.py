"""The small trained model that ships: InstructBLIP's classes at 7.1 M parameters, which know rendered scenes and
nothing else.
"""

from pathlib import Path

PATH = Path(__file__).parent / "weights"
