WITH classes AS (SELECT class_index, class_name FROM class_stats WHERE run_id = $run_id),
cells AS (
    SELECT
        label,
        dominant_class,
        sum(sample_count)::BIGINT AS cell_count,
        coalesce(sum(sample_count) FILTER (prediction = label), 0)::BIGINT AS correct_count
    FROM confusion
    WHERE run_id = $run_id AND label IS NOT NULL
    GROUP BY ALL
)
SELECT
    label,
    labels.class_name AS label_name,
    dominant_class,
    dominants.class_name AS dominant_name,
    cell_count,
    correct_count,
    sum(cell_count) OVER (PARTITION BY label)::BIGINT AS label_count,
    cell_count / sum(cell_count) OVER (PARTITION BY label) AS label_frac
FROM cells
LEFT JOIN classes AS labels ON labels.class_index = label
LEFT JOIN classes AS dominants ON dominants.class_index = dominant_class
QUALIFY dominant_class IS DISTINCT FROM label
ORDER BY cell_count DESC, label, dominant_class NULLS LAST
