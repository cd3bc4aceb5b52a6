# Data sets, fetched once and verified. Local: compute nodes may reach no network.


localrules:
    fetch_dataset,


# For data that are not there. Of a rule that is run again, because its script has changed, for files
# that count as ancient, Snakemake (9.27) runs no job that depends on it, and says that all is done.
rule fetch_dataset:
    output:
        multiext(f"{DATA}/{{dataset}}/", *datasets.FILES),
    log:
        f"{RESULTS}/logs/fetch_dataset/{{dataset}}.log",
    wildcard_constraints:
        dataset=rf"(?!({'|'.join(FETCHED)})/)[^/]+",
    conda:
        "../../envs/data.yaml"
    params:
        folder=lambda wildcards, output: Path(output[0]).parents[1],
        local_data=SETTINGS.local_data,
    script:
        "../scripts/fetch_dataset.py"
