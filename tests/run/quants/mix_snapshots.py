"""llama.cpp's types of the tensors of ``mix_models``, without an importance matrix.

Six digits of the SHA-256 of ``NAME TYPE`` of all tensors of a model, by name.

Source: tests/snapshots of llama.cpp at ggml 0.25.3, MIT.
"""

from __future__ import annotations

FILE_TYPES = """
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L
    Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S
    IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE
"""

SNAPSHOTS = {
    "deepseek-v3.1": """
        c49e98 627177 919f2e 5cc02a ceee0f 43ae4d 9fa43c 8675b6 3e8e64 d94a26 81f71d a314c3
        1b83ad 280781 0076bd 844518 f7ca73 a3152e a5e34c 356e39 61f23c f8189f 191830 acd8bc
        f79211 c25c6b 79d28a 0025fc d27889 ce276a
    """,
    "gemma-3-4b-it": """
        02394b 27b5c8 3afdb1 5938c5 2096ed a9847e 13e3da bb7c3f c3503d 5e24fc 66dd4b 2b7f9b
        0b3548 ce3c18 abb71f a2cd1e 17167e 4b48cf b09b9f c0b14b 501a7b 0fbc5f 81d3be cc9077
        cae79e 07550e fadd35 6f10a6 df49d5 2096ed
    """,
    "glm-4.6v": """
        e0b939 c6d108 efbd2b 232816 384210 50a4e5 678519 16dad8 1226e9 e77d31 3035c4 071422
        40c949 ac980e 350e8e 325353 eb5538 563133 324fc5 db55d5 b116da ee1861 6a5e8c 909117
        11642b 2760c8 4d9b89 d2b161 2857b3 6708d6
    """,
    "gpt-oss-120b": """
        02ba4e a17f3b aa7828 64a123 ebc995 616913 85800c 3f9215 45c4d8 a142a0 7481ec 98b03f
        7d3358 042888 e9757c b6eb24 b6eb24 b6eb24 6194d5 202077 202077 0abd9d 202077 202077
        400225 682237 d302e3 01168f 0fd9f0 78ad3a
    """,
    "meta-llama-3.1-70b-instruct": """
        551882 d568ca 596028 ce6572 ff3d1d f70a9d 3df09c c154fe b23321 0749d7 dd0d12 9296ab
        75262d 387a99 5b5cfe 4fed9a ee2e3a 05d1c7 da9a07 c529f4 6fa016 213f2c ceb9a3 218bf5
        d49ec7 d11efd 9428eb 8ed4e2 59e214 ff3d1d
    """,
    "nvidia-nemotron-3-nano-30b-a3b": """
        64a938 d821c3 2b15d6 b06ce1 5609b6 b663e3 2d11c1 953244 513b9e 7acc7e 4d93de 43f79b
        c7e499 e8a1f8 321cbf c743b9 662c45 50ffab 440867 ca226f f6ed3f 6163d2 138217 138217
        ca2f66 981672 785aae fae42f d202b8 d97e62
    """,
    "qwen3-0.6b": """
        427d2b 0a132e 5627e2 c63e13 30ffb1 a98074 ca2fc9 83f3ac 13ccbb c1a836 1f2c83 3647ca
        2ede98 e2af1c db4c72 0fee6e 99ce61 4f85fd b30af8 391918 462739 4a89da 7d0010 24479a
        e7f697 4c9f85 35b0f7 16fa7e 0e9a87 30ffb1
    """,
    "qwen3-14b": """
        38aa5e 4eb8f9 eb7928 2fff5c 07a8a3 213b54 e5ee60 036f10 7904f7 be4513 70e660 5f2533
        a7a634 89e7e1 505ac6 95818a 9d260b 3854e5 cfd9fa 4adda7 1469ca a1c2d2 8e9b41 daf61c
        412fcf f78ecf aa1e69 e3a5d9 a2119e 07a8a3
    """,
    "qwen3-coder-next": """
        b25b05 8821fe 8f6ed9 d033b5 39ab43 be94aa ebd317 94b513 e545e2 7eb1b5 2fae6e fb9c4c
        7b60b2 532f57 4ce5a9 0adaae 9636bd 665721 37423b 6c7a04 1086cd 5be6e0 84f8ce 18449d
        c26ef3 e290b5 00b26b 9eea41 84b774 96f3db
    """,
    "qwen3.5-397b-a17b": """
        bd43b1 dcdfc2 453dab 6824d9 651549 0ea872 72a165 2b80b1 490ecd 4a4de6 e6d0b5 7372b7
        000902 33c04c 93cd54 9a9f7f 006061 32c500 ebcdf3 0c9f40 aac40c 925934 c94e5f b53a3e
        f523a8 a709fe b836e0 0a3014 cbab0e bcfc1e
    """,
    "qwen3.6-27b": """
        8d710d 749e3e 2753e1 cc05d0 9571f4 e7f7ff 5a8221 17ef4b be8c47 8a405a fe258c 96ddcc
        285116 c77bfb 79449b 90d27f 4556de df993a d87a84 5390bf 25009a 8b4e28 2ed36f 673fcd
        6e83c4 131e03 ffd25f 6bcd12 1f2fda 9571f4
    """,
}
