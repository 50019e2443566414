"""Short stories in French, Italian, German and Spanish.

Each language has heroes with the words that agree with them, things with their articles, and three
small plots; names are shared with the English stories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from tools.stories import words
from tools.stories.teller import Story
from tools.stories.template import render

Forms = Mapping[str, str]


@dataclass(frozen=True)
class Language:
    """Words and plots of a language; every character and thing is a set of agreeing forms."""

    name: str
    ask: tuple[str, ...]
    she: tuple[Forms, ...]
    he: tuple[Forms, ...]
    things: tuple[Forms, ...]
    places: tuple[str, ...]
    homes: tuple[str, ...]
    helpers: tuple[Forms, ...]
    plots: tuple[tuple[str, ...], ...]


def tell_abroad(rng: Random, language: Language) -> Story:
    """Tell a story in another language."""
    names = rng.sample(words.SHE + words.HE, 2)
    slots: dict[str, str] = {"h": names[0], "h2": names[1], "home": rng.choice(language.homes)}
    for name, suffix in zip(names, ("", "2"), strict=True):
        forms = rng.choice(language.she if name in words.SHE else language.he)
        slots.update({key + suffix: value for key, value in forms.items()})
    slots.update(rng.choice(language.things))
    slots.update(rng.choice(language.helpers))
    slots["place"] = rng.choice(language.places)
    title, *beats = rng.choice(language.plots)
    lines = [render(beat, rng, slots) for beat in beats]
    return Story(render(title, rng, slots), " ".join(lines), names[0], "", language.name)


def _forms(keys: str, *rows: str) -> tuple[Forms, ...]:
    """Read rows of ``a | b | c`` as forms named by ``keys``."""
    names = keys.split()
    return tuple(
        dict(zip(names, (cell.strip() for cell in row.split("|")), strict=True)) for row in rows
    )


_HERO = "a_kind he happy alone"
_THING = "a_thing the_thing my_thing it_was"
_HELPER = "a_helper the_helper can"

FRENCH = Language(
    name="French",
    ask=("Raconte-moi une histoire.", "Raconte une histoire en français."),
    she=_forms(
        _HERO,
        "une petite souris | elle | heureuse | seule",
        "une jeune tortue | elle | heureuse | seule",
        "une fille curieuse | elle | heureuse | seule",
        "une chatte courageuse | elle | heureuse | seule",
    ),
    he=_forms(
        _HERO,
        "un petit renard | il | heureux | seul",
        "un jeune lapin | il | heureux | seul",
        "un garçon curieux | il | heureux | seul",
        "un ours gentil | il | heureux | seul",
    ),
    things=_forms(
        _THING,
        "un cerf-volant rouge | le cerf-volant | Mon cerf-volant | perdu",
        "une clé dorée | la clé | Ma clé | perdue",
        "un ballon bleu | le ballon | Mon ballon | perdu",
        "une cloche d'argent | la cloche | Ma cloche | perdue",
        "un chapeau vert | le chapeau | Mon chapeau | perdu",
        "une écharpe jaune | l'écharpe | Mon écharpe | perdue",
    ),
    places=("dans la forêt", "au bord de la mer", "au marché", "sur la colline", "près du lac"),
    homes=(
        "une petite maison au bord de la mer",
        "un village dans la montagne",
        "un vieux moulin",
        "une ville avec une grande horloge",
    ),
    helpers=_forms(
        _HELPER,
        "un hibou | le hibou | Je peux voler",
        "une grenouille | la grenouille | Je peux nager",
        "un écureuil | l'écureuil | Je peux grimper",
        "une taupe | la taupe | Je peux creuser",
    ),
    plots=(
        (
            "{h} et {the_thing}",
            "[Il était une fois {a_kind} qui s'appelait {h}.|Il y avait {a_kind} qui s'appelait {h}.]",
            "{He} habitait dans {home}.",
            "Un jour, {h} se promenait {place} avec {a_thing}.",
            "[Le vent soufflait fort.|Il pleuvait beaucoup.|Tout à coup, il y eut un grand bruit.]",
            '"{my_thing} est {it_was} !" [s\'écria {h}|dit {h}].',
            'Alors arriva {a_helper}. "{can}. Je vais t\'aider", dit {the_helper}.',
            "[Bientôt, {h} retrouva {the_thing}.|Et voilà : {the_helper} avait trouvé {the_thing}.]",
            "[{h} était très {happy}.|\"Merci, mon ami !\" dit {h}.]",
            "[Ce soir-là, {he} s'endormit avec un sourire.|Depuis ce jour, {h} et {the_helper} sont amis.|Fin.]",
        ),
        (
            "{h} et {h2}",
            "Il était une fois {a_kind} qui s'appelait {h}.",
            "{He} vivait dans {home}, mais {he} était souvent {alone}.",
            "Un matin, {place}, {he} rencontra {h2}, {a_kind2}.",
            '"Bonjour, je m\'appelle {h}. Veux-tu jouer avec moi ?" "Oui !" répondit {h2}.',
            "[Ils jouèrent jusqu'au soir|Ils partagèrent du pain et du miel|Ils chantèrent ensemble].",
            "[{h} n'était plus {alone}.|{h} était très {happy}.]",
            "[Depuis ce jour, {h} et {h2} sont amis.|Le soir, les étoiles brillaient pour {h} et {h2}.]",
        ),
        (
            "Le cadeau de {h2}",
            "Dans {home} vivait {h}, {a_kind}.",
            "C'était l'anniversaire de {h2}, et {h} cherchait un cadeau.",
            "{Place}, {he} trouva {a_thing}.",
            '"C\'est beau !" [dit|pensa] {h}.',
            '{h2} ouvrit la boîte. "{A_thing} ! Merci, {h} !"',
            "[{h2} était très {happy2}.|{h} et {h2} mangèrent du gâteau.]",
        ),
    ),
)  # fmt: skip

ITALIAN = Language(
    name="Italian",
    ask=("Raccontami una storia.", "Racconta una storia in italiano."),
    she=_forms(
        _HERO,
        "una piccola volpe | lei | felice | sola",
        "una giovane tartaruga | lei | felice | sola",
        "una bambina curiosa | lei | felice | sola",
        "una gatta coraggiosa | lei | felice | sola",
    ),
    he=_forms(
        _HERO,
        "un piccolo orso | lui | felice | solo",
        "un giovane coniglio | lui | felice | solo",
        "un bambino curioso | lui | felice | solo",
        "un topo coraggioso | lui | felice | solo",
    ),
    things=_forms(
        _THING,
        "un aquilone rosso | l'aquilone | Il mio aquilone | sparito",
        "una chiave d'oro | la chiave | La mia chiave | sparita",
        "un pallone blu | il pallone | Il mio pallone | sparito",
        "una campana d'argento | la campana | La mia campana | sparita",
        "un cappello verde | il cappello | Il mio cappello | sparito",
        "una sciarpa gialla | la sciarpa | La mia sciarpa | sparita",
    ),
    places=("nel bosco", "in riva al mare", "al mercato", "sulla collina", "vicino al lago"),
    homes=(
        "una piccola casa sul mare",
        "un villaggio di montagna",
        "un vecchio mulino",
        "una città con un grande orologio",
    ),
    helpers=_forms(
        _HELPER,
        "un gufo | il gufo | Io so volare",
        "una rana | la rana | Io so nuotare",
        "uno scoiattolo | lo scoiattolo | Io so arrampicarmi",
        "una talpa | la talpa | Io so scavare",
    ),
    plots=(
        (
            "{h} e {the_thing}",
            "C'era una volta {a_kind} che si chiamava {h}.",
            "[Viveva in {home}.|La sua casa era {home}.]",
            "Un giorno {h} camminava {place} con {a_thing}.",
            "[Il vento era forte.|Pioveva molto.|All'improvviso ci fu un gran rumore.]",
            '"{my_thing} è {it_was}!" [gridò|disse] {h}.',
            'Allora arrivò {a_helper}. "{can}. Ti aiuto io", disse {the_helper}.',
            "[Presto {h} ritrovò {the_thing}.|Ed ecco: {the_helper} aveva trovato {the_thing}.]",
            "[{h} era molto {happy}.|\"Grazie, amico mio!\" disse {h}.]",
            "[Quella sera {h} si addormentò con un sorriso.|Da quel giorno {h} e {the_helper} sono amici.|Fine.]",
        ),
        (
            "{h} e {h2}",
            "C'era una volta {a_kind} che si chiamava {h}.",
            "Viveva in {home}, ma era spesso {alone}.",
            "Una mattina, {place}, {h} incontrò {h2}, {a_kind2}.",
            '"Ciao, mi chiamo {h}. Vuoi giocare con me?" "Sì!" rispose {h2}.',
            "[Giocarono fino a sera|Mangiarono pane e miele|Cantarono insieme].",
            "[{h} non era più {alone}.|{h} era molto {happy}.]",
            "[Da quel giorno {h} e {h2} sono amici.|La sera le stelle brillavano per {h} e {h2}.]",
        ),
        (
            "Il regalo di {h2}",
            "In {home} viveva {h}, {a_kind}.",
            "Era il compleanno di {h2}, e {h} cercava un regalo.",
            "{Place} trovò {a_thing}.",
            '"Che bello!" [disse|pensò] {h}.',
            '{h2} aprì la scatola. "{A_thing}! Grazie, {h}!"',
            "[{h2} era molto {happy2}.|{h} e {h2} mangiarono la torta.]",
        ),
    ),
)  # fmt: skip

GERMAN = Language(
    name="German",
    ask=("Erzähl mir eine Geschichte.", "Erzähle eine Geschichte auf Deutsch."),
    she=_forms(
        _HERO,
        "eine kleine Maus | sie | glücklich | allein",
        "eine junge Schildkröte | sie | glücklich | allein",
        "eine kluge Katze | sie | glücklich | allein",
        "eine mutige Ente | sie | glücklich | allein",
    ),
    he=_forms(
        _HERO,
        "ein kleiner Fuchs | er | glücklich | allein",
        "ein junger Hase | er | glücklich | allein",
        "ein neugieriger Junge | er | glücklich | allein",
        "ein mutiger Bär | er | glücklich | allein",
    ),
    things=_forms(
        "acc_thing the_thing my_thing it_was acc_the",
        "einen roten Drachen | der Drachen | Mein Drachen | weg | den Drachen",
        "eine goldene Glocke | die Glocke | Meine Glocke | weg | die Glocke",
        "ein blaues Boot | das Boot | Mein Boot | weg | das Boot",
        "einen silbernen Schlüssel | der Schlüssel | Mein Schlüssel | weg | den Schlüssel",
        "einen grünen Hut | der Hut | Mein Hut | weg | den Hut",
        "eine gelbe Laterne | die Laterne | Meine Laterne | weg | die Laterne",
    ),
    places=("im Wald", "am Meer", "auf dem Markt", "auf dem Hügel", "am See"),
    homes=(
        "einem kleinen Haus am Meer",
        "einem Dorf in den Bergen",
        "einer alten Mühle",
        "einer Stadt mit einer großen Uhr",
    ),
    helpers=_forms(
        _HELPER,
        "eine Eule | die Eule | Ich kann fliegen",
        "ein Frosch | der Frosch | Ich kann schwimmen",
        "ein Eichhörnchen | das Eichhörnchen | Ich kann klettern",
        "ein Maulwurf | der Maulwurf | Ich kann graben",
    ),
    plots=(
        (
            "{h} und {the_thing}",
            "[Es war einmal {a_kind} mit dem Namen {h}.|Es war einmal {a_kind}. {He} hieß {h}.]",
            "{He} wohnte in {home}.",
            "Eines Tages war {h} {place} und hatte {acc_thing} dabei.",
            "[Der Wind wehte stark.|Es regnete sehr.|Plötzlich gab es einen lauten Knall.]",
            '"{my_thing} ist {it_was}!" [rief|sagte] {h}.',
            'Da kam {a_helper}. "{can}. Ich helfe dir", sagte {the_helper}.',
            "[Bald hatte {h} {acc_the} wieder.|Und siehe da: {the_helper} fand {acc_the}.]",
            "[{h} war sehr {happy}.|\"Danke, lieber Freund!\" sagte {h}.]",
            "[An diesem Abend schlief {he} mit einem Lächeln ein.|Seit diesem Tag sind {h} und {the_helper} Freunde.|Ende.]",
        ),
        (
            "{h} und {h2}",
            "Es war einmal {a_kind} mit dem Namen {h}.",
            "{He} lebte in {home}, aber {he} war oft {alone}.",
            "Eines Morgens traf {he} {place} {h2}. Das war {a_kind2}.",
            '"Hallo, ich heiße {h}. Willst du mit mir spielen?" "Ja!" antwortete {h2}.',
            "[Sie spielten bis zum Abend|Sie aßen Brot mit Honig|Sie sangen zusammen].",
            "[{h} war nicht mehr {alone}.|{h} war sehr {happy}.]",
            "[Seit diesem Tag sind {h} und {h2} Freunde.|Am Abend leuchteten die Sterne für {h} und {h2}.]",
        ),
        (
            "Das Geschenk für {h2}",
            "In {home} lebte {h}, {a_kind}.",
            "{h2} hatte Geburtstag, und {h} suchte ein Geschenk.",
            "{Place} fand {he} {acc_thing}.",
            '"Wie schön!" [sagte|dachte] {h}.',
            '{h2} öffnete die Schachtel. "Genau das habe ich mir gewünscht! Danke, {h}!"',
            "[{h2} war sehr {happy2}.|{h} und {h2} aßen Kuchen.]",
        ),
    ),
)  # fmt: skip

SPANISH = Language(
    name="Spanish",
    ask=("Cuéntame un cuento.", "Cuenta una historia en español."),
    she=_forms(
        _HERO,
        "una pequeña zorra | ella | contenta | sola",
        "una joven tortuga | ella | contenta | sola",
        "una niña curiosa | ella | contenta | sola",
        "una gata valiente | ella | contenta | sola",
    ),
    he=_forms(
        _HERO,
        "un pequeño ratón | él | contento | solo",
        "un joven conejo | él | contento | solo",
        "un niño curioso | él | contento | solo",
        "un oso valiente | él | contento | solo",
    ),
    things=_forms(
        _THING,
        "una cometa roja | la cometa | Mi cometa | perdida",
        "una llave dorada | la llave | Mi llave | perdida",
        "un globo azul | el globo | Mi globo | perdido",
        "una campana de plata | la campana | Mi campana | perdida",
        "un sombrero verde | el sombrero | Mi sombrero | perdido",
        "una bufanda amarilla | la bufanda | Mi bufanda | perdida",
    ),
    places=("en el bosque", "a la orilla del mar", "en el mercado", "en la colina", "cerca del lago"),
    homes=(
        "una casita junto al mar",
        "un pueblo en la montaña",
        "un viejo molino",
        "una ciudad con un gran reloj",
    ),
    helpers=_forms(
        _HELPER,
        "un búho | el búho | Yo sé volar",
        "una rana | la rana | Yo sé nadar",
        "una ardilla | la ardilla | Yo sé trepar",
        "un topo | el topo | Yo sé cavar",
    ),
    plots=(
        (
            "{h} y {the_thing}",
            "[Había una vez {a_kind} que se llamaba {h}.|Érase una vez {a_kind} que se llamaba {h}.]",
            "Vivía en {home}.",
            "Un día, {h} paseaba {place} con {a_thing}.",
            "[Hacía mucho viento.|Llovía mucho.|De repente, se oyó un gran ruido.]",
            '"¡{my_thing} está {it_was}!" [gritó|dijo] {h}.',
            'Entonces llegó {a_helper}. "{can}. Voy a ayudarte", dijo {the_helper}.',
            "[Pronto {h} encontró {the_thing}.|Y así {the_helper} encontró {the_thing}.]",
            "[{h} estaba muy {happy}.|\"¡Muchas gracias!\" dijo {h}.]",
            "[Esa noche, {h} se durmió con una sonrisa.|Desde ese día, {h} y {the_helper} son amigos.|Fin.]",
        ),
        (
            "{h} y {h2}",
            "Había una vez {a_kind} que se llamaba {h}.",
            "Vivía en {home}, pero a menudo estaba {alone}.",
            "Una mañana, {place}, {h} encontró a {h2}, {a_kind2}.",
            '"Hola, me llamo {h}. ¿Quieres jugar conmigo?" "¡Sí!" respondió {h2}.',
            "[Jugaron hasta la noche|Comieron pan con miel|Cantaron juntos].",
            "[{h} ya no estaba {alone}.|{h} estaba muy {happy}.]",
            "[Desde ese día, {h} y {h2} son amigos.|Por la noche, las estrellas brillaban para {h} y {h2}.]",
        ),
        (
            "El regalo de {h2}",
            "En {home} vivía {h}, {a_kind}.",
            "Era el cumpleaños de {h2}, y {h} buscaba un regalo.",
            "{Place} encontró {a_thing}.",
            '"¡Qué bonito!" [dijo|pensó] {h}.',
            '{h2} abrió la caja. "¡{A_thing}! ¡Gracias, {h}!"',
            "[{h2} estaba muy {happy2}.|{h} y {h2} comieron pastel.]",
        ),
    ),
)  # fmt: skip

LANGUAGES = (FRENCH, ITALIAN, GERMAN, SPANISH)
