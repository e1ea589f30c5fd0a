"""The main job as a story that proves itself: real pictures, two kills, one broker restart, and a ledger at the end.

What lives here: the story (`story`), what it needs on the way (pictures, a fresh stage on the lab's services, the
operator's chart) and the ledger that decides whether anything was lost. What does not: building the lab itself, which
is the rest of `eco_lab`, and assertions of tests, which drive the same parts from `tests/e2e`.
Imports point one way: `command > story > trouble > ledger | stage | install > broker | pictures > kubectl | narration`.
"""
