"""More than one trial: space, ledger, sampler, ASHA, replicates. Only `trial` and `driver` know Ray."""
