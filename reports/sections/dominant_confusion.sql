WITH classes AS (SELECT class_index, class_name FROM class_stats WHERE run_id = $run_id),
cells AS (
    SELECT label, dominant_class, sum(sample_count)::BIGINT AS cell_count
    FROM confusion
    WHERE run_id = $run_id
    GROUP BY ALL
)
SELECT
    label,
    labels.class_name AS label_name,
    dominant_class,
    dominants.class_name AS dominant_name,
    cell_count,
    cell_count / sum(cell_count) OVER (PARTITION BY label) AS label_frac
FROM cells
LEFT JOIN classes AS labels ON labels.class_index = label
LEFT JOIN classes AS dominants ON dominants.class_index = dominant_class
ORDER BY label NULLS LAST, dominant_class NULLS LAST
