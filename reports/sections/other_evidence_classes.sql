WITH cells AS (
    SELECT label, dominant_class, sum(sample_count)::BIGINT AS cell_count
    FROM confusion
    WHERE run_id = $run_id AND prediction = label
    GROUP BY ALL
),
classes AS (
    SELECT
        label AS class_index,
        sum(cell_count)::BIGINT AS correct_count,
        sum(cell_count) FILTER (dominant_class != label) / sum(cell_count) AS other_frac,
        arg_max(dominant_class, (cell_count, -dominant_class)) FILTER (dominant_class != label) AS most_frequent_class
    FROM cells
    GROUP BY label
)
SELECT *
FROM classes
WHERE correct_count >= $ranked_from AND other_frac > 0
ORDER BY other_frac DESC, class_index
LIMIT 1
