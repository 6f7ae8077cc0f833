"""The words whose number in a prompt is one of its text features, by kind of question. English alone."""

from __future__ import annotations

WORD_LISTS = {
    "mathematics": "equation integer polynomial matrix graph probability group ring field derivative sum product ratio "
    "average velocity mass energy vector linear variance sample set angle triangle function",
    "law": "plaintiff defendant court statute contract liable tort sued jury constitution constitutional law rights "
    "property crime",
    "medicine": "patient old blood symptoms symptom disease physical examination infection drug treatment cells woman "
    "man",
    "morals": "morally moral wrong ethical ethics ordinary",
    "history": "passage excerpt century war empire king information state states government",
    "statement": "statement",
    "negation": "not except least never incorrect false cannot no none neither nor without",
    "code": "python code program algorithm array def print loop list string json output write implement",
    "money": "price market demand supply cost profit tax interest income money dollars pay paid spend spent costs "
    "bought buys sells sold earn earns worth",
    "logic": "logic argument fallacy premise conclusion valid proposition formula translation symbols",
    "rates": "per each every twice half third quarter times percent remaining left total altogether rest double triple "
    "many much",
    "comparison": "more less fewer than most greater higher lower older younger longer taller larger",
    "time": "hour hours minute minutes day days week weeks month months year years daily weekly monday morning night",
    "question": "what which why who where whose",
    "how": "how",
    "actions": "gives give gave takes took lost added adds eats ate makes made uses used needs needed gets got has "
    "have had does did runs",
    "number words": "one two three four five six seven eight nine ten dozen hundred first second",
    "conditions": "if then unless suppose assume assuming given when while but however because therefore",
    "modality": "would should could can may might must will",
    "pronouns": "he she his her they their him them it its you your my",
    "exam": "following true best likely describes statements correct example called known refers term theory",
    "calculation": "calculate find determine compute evaluate solve value approximately",
    "units": "miles mile feet foot inches pounds ounces gallons kg meters cm km degrees speed distance hz mol",
    "combination": "above all both only",
}
# Words that tell problems of many steps from others, whatever else they are counted as.
FINE_LISTS = {
    "fractions": "half third thirds quarter quarters fourth fourths fifth fifths sixth tenth",
    "multiples": "twice double doubled triple tripled thrice times",
    "than": "than",
    "as": "as",
    "if": "if",
    "and": "and",
    "ages": "age old older younger",
    "averages": "average mean",
    "speed": "speed rate mile miles mph",
    "exclusion": "not except without only but however",
}
