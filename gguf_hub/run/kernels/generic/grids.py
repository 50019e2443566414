"""The code books of the IQ types: eight weights at a time, as the bytes of a 64-bit number.

A grid is a set of vectors of four or eight weights, each weight one of three or eight magnitudes.
Read as digits, the first weight the lowest, a vector is a number; a grid lists its numbers in
ascending order, so that the distances from one to the next are all that is kept here.

Source: iq2xxs_grid ... iq1s_grid and ksigns_iq2xs in ggml/src/ggml-common.h at ggml commit
c2cdd2b2 (MIT).
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OFFSET = 64
"""What magnitudes are raised by in the tables of IQ2 and IQ3."""
TERNARY_OFFSET = 17
"""What eight times a weight of IQ1 is raised by, before 1 is added."""

_DISTANCES = (
    "c-o~|+m0ML8MezVS50+wPfe%O=}9`1*-"
    "3U7qG$+12rCq%2raAC3Kq0ltyWy+iVH4y1TMKoJPXgl^YHoeZ<p)Poe8Ma)m1+H{tw@OuuG{TyBvNtJv%--{#sS@-"
    ">Q|mz*~#AwR)i*v$aWcTX}BN`$}!_)TkY2T;Lb!wu$~0y*u><MtvppYK&`TJwI}dmPWnC?@ng6p!-"
    "r?sw<56lC#!o4}L7(Zq+NcY*k0T?{I&O|3AsNmAb*$jrxF9TlD;0y%|XCFy4wJYtr@aJKT5V<AOZA0QD{2-"
    "l^|oq{T`vIr9r}79{oZy}*43-fkhE=V7P5QP&vRp#2i_-"
    ">Gjoe+SApn0tX4R{emHx9T72Kcv0^7kg^{z4|)Y!rQ>>V2l1WXnv=D1nr>zTeRM&UxTL&R{Bx>8(R4n$6jE}2UY9WN)7Cv"
    "Uv}o*WzUvYotx<fGont{gVrWVP!k`=Rw^=EOlf$m?D@1}`<_V4xv_%bh@&E*#ZhYxda)B(>_n1&=9G&yJz^#8YuaTz%0GF"
    "#>}AGVylsg~zfMO)Z!zi?2!1)yX^+PE<S^$FbFLt9Sf#`LE$BCBZ}Ij{WN(O%6|m3}@z)%GOz&ge&C6`XznsYab_O3oH(i"
    "PfuV}F?@foSqxUSH?5t+U{fS`RsO#zR+0J4iLUNp3>gGL>2e~C3}uIy>=$;;n}jlfY&eHZF4jA$M1zb7xR;3;oF`8{U&nT"
    "HUt&GfdWCtr)zyDV}R^wAD0T|nLq#_TEMmi%}QKVS{VsA5xe>cFS>_iu3Dp#3qm@E)@Z@b_m(cMaQKa<!o68q{ww=1O$$X"
    "M1jL)IUih;O{l*yk%S|K%@Ia|DU48PTJ@EH^+oaF=EcUV#|t@12T^DaVYwXSDaF@ANBZV#L*c4QyC9w!%MOnMaOzTu@=v+"
    "#iCb?C{xMpQTy1VQr|DKcS%1kivit1nLkaF$3}!`Fm8D~v0FWvxtpOCye#JXL$(TB)ROaa8}<I4b5l#*VwuyuUhF}{9hb}"
    "_D&~TYF}c_CW6`uj%-"
    "&+fJ<+har$uvLaI;*^`O9(346DMa=06>0?*GoY+d;)TH@`hNcST!=Jp3sUZ|Eog8>TzfDfgW{*Vb1&Z)f^_HtDO34%NhFC"
    "VJ$SJgldV6}Z>e<tSq1oOr+Jn7Mu{2)@CZEpYrjGFCnE4?Bwgb%uR=RNqd<gi)d8cB0Ap-"
    "g*qxXRMrZ54<Lo9WeHWxjxp8HuIcA*6yj)%-O#6ZlwDu4quY<OU%4V*7f@mpVR+Jx*;RR=yc6ma?AQ5#H0(+Q>-"
    "MeXuA$I&KunCSb^-NF0-"
    "f(Hj@8KzH8hob)wFN$CB?>8U8P159r$~wuHJo@aZ^vp`NP;pjvWtu=4|~{0sF+5crT7iL}GNpQjl|Dz^PB^;eY5*H9;FiF"
    "pgqcn)Owit7PZ_ybYdQ}Vo?sAr^Ugu)X_R`V@zxx{@5ekxXbR(%F4JJv`~)bGg6BWNkg_z+{u#Ki*tPq^9=J)JrQC%?h{f"
    "$T4yVD&Y6Zt&Y+^oq!_;B<pgnzi8>?DR~1j$Xg=L-ZL^zr(tZXx|S1&&1<?s-"
    "BA6HCq1&j{V4vGoE6^1t|Ib<yWBgx%xR)UP)c7>Ak+*ehI!xAZ5w*K11s>?#91_{WUJb(VE%`Gri?X(PEM8VQ|H9mZN-"
    "2@aPKEEj6XtqS<FS##4)wmUyZedyHt<NF-W{1s8lX)TqCo60ZSIrHnl##)96?@K%v_9J6Ev-"
    "18Zw3NnPfibqPogOOPkSF6|`c1<Sf!gJE_7qt-h)0}yRr-f)~DPH4gKFnyIs-IB0WkQf2=dp3dIFWN%B(AjRD7-"
    "JlR)+p<lK#UQJH9o^LmT?15p7z?8&~x{yTJVf?G^jZ`Bc)+H2RkGn38$K(s!5ij1m#ON*q=R8;0w}d|inqI@#4U67O29Q&"
    "D3<wiAgFD<YyKiq2@^C223nL4&skxGqJzKFV0BL=3s8xKb%=JEFvqZ_iyxJ(RG3p^uhXY<o^W@bTxI=xN{`=ip%jZF+=xE"
    "uBjZypr`=@r|J86Y%9V*>Ke*e6$3$Q$~$ekmFCq{CQCeDGK!~O0vR##H^1b9cVp;kFJTOlDcfk^)E5@6h8w_HW>Q^F`+<f"
    "h<1TO%c$X_^eJnL=yP75=S0SeXA7S59pZuCWj_KU^ZlO@yA%@dd{x}Hlqq-Xl=pP<$9xx{X@f)agKf$|Jz^v}SXwvM<4*R"
    "MUYky`t(I6`NG`VG<$dgm*GY;vv3JE&!@j045~-Y2k&9Vg?LjF*)X?I+CY^Z3>fn&<Ml>BGYngWOI-"
    "{A_XPOuaqs?r^ZaG?KSFD8UbiNcVQjY4tI@<#UF14&_xn7<ZbeiiVuH@R+DH{~CHVJKI#-"
    "kpM)Pt6xZF~Fo^4Y=cn4OGJ*3@J`S54dW^;0p!r<1t9O1<8LdZ~MULM3Jfe4I%AQjM(BpJJJG4p<HlkfUO*H`uq5T$JlF+"
    "S8?&WJc&c)K{lHZf@1k;v^FriC`}C@Mz;uMVgU~okUkBSHN;9SZogXQIq*V#H10ao6%0d$?TFy8qVq^E)V*0JKEQEQla#9"
    "LXN57NlLVTIoTx!OfND|YQ*+F@0QGft<)T2UzqMUOTn$4VAPJ@b*kL@Dy~RT(a!K3a5lH9$$T<K=ct)pE+e&4Ig0vja7GX"
    "+Bt4M9X8xMThCX&i--?#$vJ(o+)0rkkfqZp4z^9fuG4l0sei&bdx+-RRb58p;-"
    "NYU?JBO%8HVcuV%ref2=(D$*nIKFLEUQOabA!>bN-ZY*&PUm?Y<lJ@CeoWpkD1UcM$vanyWc;|uh~bJzRk!^L1($6w|SNM"
    ";#m5;&(8Xjo5jS`>PD`9jAMkVWEZ3pDtZZfzp4hBYO~1e2Ivb2S!Nk3piQTG--rw@%g!+qw^BW6M!BHvrNq3`l+owT3Wr&"
    "?mT_Z0wS&6JS5xB{RAh2i(r&VqgZ)a0;KQtwBgm$GXP)1~zUNe|)?{CY9J5)OomCeD%-"
    "WH^n#4z}tSnCih7m=}&cX~Tu{?w6k5qbjT(kozOX)G`X-Z)sI-m9|rOK>QCbm-"
    "Bx-1&y_U?1QTuoN++eBUoYuVdt$pIy+k3P!fHKa-PNngX~dWh22qq;TL5Y0z4xIB=_gBRvs+G^R4jPudlNp6{;)@He4oX_"
    "m&%Tyd$(?U5)>vZlojG=KxT+5AOP#$6QJ+qKWrvv)H{wJQVlv!koG1-Y-"
    "Z1RwL@QvAJRfds$x|{h*SB&bUajQ)j%ysLvbb@PmCfue-"
    "ygcGdb33#?dum39JexM@Y+@<gR3h84O7To=@3QLFq`1EyVPRMixJmAh--"
    "AQ^suPDXQ?{x0G?Q=V{eE~}_FAg+@a@W`8D-MqkjhlI{{_>cggg"
)
"""Distances as uint16, one grid after another, deflated, in base 85."""

_IQ2 = [OFFSET + x for x in (8, 25, 43)]
_IQ3_XXS = [OFFSET + x for x in (4, 12, 20, 28, 36, 44, 52, 62)]
_IQ3_S = [OFFSET + x for x in (1, 3, 5, 7, 9, 11, 13, 15)]
# 10, 18 or 26: with bit 1 cleared these are 2 less, as a delta of -1 is of one of 1
_IQ1 = [TERNARY_OFFSET + 1 + 8 * x for x in (-1, 0, 1)]


def _grids(*books: tuple[int, int, list[int]]) -> list[NDArray[np.uint64]]:
    """Return grids, given of each how many vectors, their length and the bytes of its digits."""
    distances = np.frombuffer(zlib.decompress(base64.b85decode(_DISTANCES)), "<u2")
    grids, start = [], 0
    for n_vectors, length, digits in books:
        numbers = np.cumsum(distances[start : start + n_vectors], dtype=np.int64)
        start += n_vectors
        base = len(digits)
        codes = numbers[:, None] // base ** np.arange(length) % base
        values = np.array(digits, np.uint64)[codes] << (8 * np.arange(length)).astype(np.uint64)
        grids.append(np.bitwise_or.reduce(values, axis=1))
    return grids


IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1 = _grids(
    (256, 8, _IQ2), (512, 8, _IQ2), (1024, 8, _IQ2),
    (256, 4, _IQ3_XXS), (512, 4, _IQ3_S), (2048, 8, _IQ1),
)  # fmt: skip


def _spread(value: int, byte: int) -> int:
    """Return eight bytes: ``byte`` where a bit of ``value`` is set, else 0."""
    return sum(byte << 8 * i for i in range(8) if value >> i & 1)


SIGNS = np.array([_spread(bits, 0x7F) for bits in range(256)], np.uint64)
"""Eight signs -> 0x7F in each byte whose weight is negative."""
EVEN_SIGNS = SIGNS[[bits | (bits.bit_count() & 1) << 7 for bits in range(128)]]
"""The same for seven signs: the eighth makes the number of negative weights even."""
BITS = np.array([_spread(bits, 2) for bits in range(256)], np.uint64)
"""Eight bits -> 2 in each byte whose bit is set."""

NONLINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
"""The sixteen weights of IQ4_NL and IQ4_XS."""
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""The sixteen weights of MXFP4 and NVFP4, doubled (OCP Microscaling Formats 1.0, section 5.3.3)."""
