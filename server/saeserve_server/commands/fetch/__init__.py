"""`saeserve-server fetch`: the only thing here that touches the network.

Arrows run one way, top to bottom. `hub`, `static` and `download` import the hub's client, and are imported when needed.

    command      arguments, the order of things, what is printed
    wanted       what was asked for: a ready configuration, a file of the user's, a model, `hf://…` patterns
    choose       of a repository's files, those of the SAEs that a pattern names: exactly one match for each layer
    hub, static  listings with sizes and checksums: of the hub, and of OpenAI's files, which lie on a plain server
    download     files onto the disk: what is there is skipped, what was begun goes on, everything is checked
    sums         SHA256SUMS
    remote       what they hand on: a file that lies elsewhere
"""
