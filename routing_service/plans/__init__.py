"""Plans of batches: which request goes to which model, under which budget. The arithmetic is in `planning`.

Read `plan` first, then `stored` (the scored requests as arrays), `replan`, `preview` and `approve` (a plan that is
looked at before anything is spent), `probing` and `holdback` (what waits until answers have shown what they cost).
"""
