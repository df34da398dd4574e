WITH before AS (
    SELECT stats.*, half_energy_area_frac_mean, spread_mean
    FROM reference.class_stats AS stats JOIN reference.localization USING (class_index)
),
after AS (
    SELECT stats.*, half_energy_area_frac_mean, spread_mean FROM class_stats AS stats JOIN localization USING (class_index)
)
SELECT
    coalesce(before.class_name, after.class_name) AS class_name,
    before.sample_count AS before_sample_count,
    after.sample_count AS after_sample_count,
    before.correct_frac AS before_correct_frac,
    after.correct_frac AS after_correct_frac,
    before.dominant_count / sum(before.dominant_count) OVER () AS before_dominant_frac,
    after.dominant_count / sum(after.dominant_count) OVER () AS after_dominant_frac,
    before.sparseness_mean AS before_sparseness_mean,
    after.sparseness_mean AS after_sparseness_mean,
    before.half_energy_area_frac_mean AS before_half_energy_area_frac_mean,
    after.half_energy_area_frac_mean AS after_half_energy_area_frac_mean
FROM before FULL JOIN after ON before.class_name = after.class_name
ORDER BY abs(after_dominant_frac - before_dominant_frac) DESC NULLS LAST, class_name
