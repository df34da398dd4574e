SELECT abs(here.mean - there.mean) / nullif(there.deviation, 0)
FROM (SELECT avg(half_energy_area_frac) AS mean FROM samples) AS here,
    (SELECT avg(half_energy_area_frac) AS mean, stddev_samp(half_energy_area_frac) AS deviation FROM reference.samples) AS there
