WITH cells AS (
    SELECT label, dominant_class
    FROM confusion
    WHERE run_id = $run_id AND ($with_diagonal OR (label IS NOT NULL AND dominant_class IS DISTINCT FROM label))
    GROUP BY ALL
    ORDER BY sum(sample_count) DESC, label NULLS LAST, dominant_class NULLS LAST
    LIMIT $cells
)
SELECT sample_index
FROM samples
JOIN cells
    ON samples.label IS NOT DISTINCT FROM cells.label
    AND samples.dominant_class IS NOT DISTINCT FROM cells.dominant_class
WHERE run_id = $run_id
QUALIFY row_number() OVER (
    PARTITION BY samples.label, samples.dominant_class ORDER BY dominant_energy_frac DESC NULLS LAST, sample_index
) = 1
ORDER BY samples.label NULLS LAST, samples.dominant_class NULLS LAST
