SELECT sample_index, label, prediction, dominant_class
FROM samples
WHERE run_id = $run_id
ORDER BY label NULLS LAST, dominant_class NULLS LAST, dominant_energy_frac DESC NULLS LAST, sample_index
