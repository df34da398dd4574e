SELECT 'added' AS change, sample_index, sample_id FROM after ANTI JOIN before USING (content_hash, copy)
UNION ALL
SELECT 'missing' AS change, sample_index, sample_id FROM before ANTI JOIN after USING (content_hash, copy)
ORDER BY change, sample_index
