SELECT sample_index
FROM samples
JOIN (
    SELECT class_index FROM class_stats WHERE sample_count >= $min_samples ORDER BY correct_frac, class_index LIMIT 1
) ON label = class_index
WHERE NOT is_correct
ORDER BY probability DESC NULLS LAST, sample_index
