"""VIG and VIC as one coroutine, with the policies and the grounding that steer it."""
