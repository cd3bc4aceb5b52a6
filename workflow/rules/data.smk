# Data sets, fetched once and verified. Local: compute nodes may reach no network.


localrules:
    fetch_dataset,


rule fetch_dataset:
    output:
        multiext(
            f"{DATA}/{{dataset}}/",
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
    log:
        f"{RESULTS}/logs/fetch_dataset/{{dataset}}.log",
    conda:
        "../../envs/data.yaml"
    params:
        folder=lambda wildcards, output: Path(output[0]).parents[1],
        local_data=SETTINGS.local_data,
    script:
        "../scripts/fetch_dataset.py"
