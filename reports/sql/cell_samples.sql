WITH cells AS (
    SELECT label, dominant_class, sum(sample_count)::BIGINT AS cell_count
    FROM confusion
    WHERE run_id = $run_id AND ($with_diagonal OR (label IS NOT NULL AND dominant_class IS DISTINCT FROM label))
    GROUP BY ALL
    ORDER BY cell_count DESC, label NULLS LAST, dominant_class NULLS LAST
    LIMIT $cells
)
SELECT
    samples.label,
    samples.dominant_class,
    cell_count,
    sample_index,
    sample_id,
    prediction,
    probability,
    dominant_energy_frac,
    label_energy_frac
FROM samples
JOIN cells
    ON samples.label IS NOT DISTINCT FROM cells.label
    AND samples.dominant_class IS NOT DISTINCT FROM cells.dominant_class
WHERE run_id = $run_id
QUALIFY row_number() OVER (
    PARTITION BY samples.label, samples.dominant_class ORDER BY dominant_energy_frac DESC NULLS LAST, sample_index
) <= $count
ORDER BY samples.label NULLS LAST, samples.dominant_class NULLS LAST, dominant_energy_frac DESC NULLS LAST, sample_index
