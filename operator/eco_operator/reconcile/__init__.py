"""From what was seen to what should be done, without doing anything: observe, decide, and the verdicts between.

Every function here is pure: given the same observation it comes to the same plan. Nothing in here knows a client, a
clock or Kopf. It may import `resources` (which builds objects) and is imported by `loop` (which acts).
"""
