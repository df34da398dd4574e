SELECT
    $columns
FROM before JOIN after ON before.content_hash = after.content_hash AND before.copy = after.copy
ORDER BY after.sample_index
