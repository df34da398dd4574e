SELECT sample_index
FROM samples, (SELECT avg(half_energy_area_frac) AS mean, stddev_samp(half_energy_area_frac) AS deviation FROM reference.samples)
WHERE abs(half_energy_area_frac - mean) > deviation
ORDER BY abs(half_energy_area_frac - mean) DESC, sample_index
