"""Where a training loop's time goes: into its own steps, into preparing batches, or into fetching data.

The method is DS-Analyzer's (Mohan et al., "Analyzing and mitigating data stalls in DNN training", VLDB 2021): the same
loop runs with batches that are there already, with all of its data in memory, and cold. What the second run waits for
is the preparation stall, what the third waits for beyond that is the fetch stall. Waits are told from steps that are
slow by themselves, which a difference of run times would blame on the loader on a machine with few cores.
"""

from foreshard.loader.doctor.advice import Advice, advise
from foreshard.loader.doctor.examination import Examination
from foreshard.loader.doctor.findings import Case, Diagnosis, Phase

__all__ = ["Advice", "Case", "Diagnosis", "Examination", "Phase", "advise"]
