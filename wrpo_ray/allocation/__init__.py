"""Which source draws how many responses to which prompt, when not all of the grid is drawn (opt-in).

Pure functions of reward tables: no Ray, no torch, no files. Two policies, each of which loads a source twice at most:

halving: first the whole grid of a slice of the prompts; then, for all others, only the sources that are worth it.
waves:   first the same slice, and one response of every source to every other prompt; then more for each prompt, from
         the sources that can be expected to beat its best response at a price that pays.

The slice has two parts, chosen by a hash of prompt_id: the pilot, on which the policy is tuned until it keeps the
share of the gain that was asked for, and the audit, which it never learns from and which tells what it lost.
"""
