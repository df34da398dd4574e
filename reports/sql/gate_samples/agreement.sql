SELECT sample_index
FROM evidence_verdicts
WHERE NOT agrees
ORDER BY prediction_energy_frac NULLS FIRST, sample_index
