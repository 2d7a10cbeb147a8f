"""Common English words. Each is one token of the demo's tokenizer: openers begin a text, words follow a space."""

_OPENERS = (
    "The And To In That For It As With By On Not He His But At This From They One You Her All She There We When Who "
    "What Some These Two Then My Now Our After Before Where Your Because How Even Still Here Never While During Again "
    "However Once Every Nothing Why"
)

_WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its about "
    "into than them can only other new some could time these two may then do first any my now such like our over man "
    "me even most made after also did many before must through years where much your way well down should because each "
    "just those people how too little state good very make world still own see men work long get here between both "
    "life being under never day same another know while last might us great old year off come since against go came "
    "right used take three himself few house use during without again place around however home small found thought "
    "went say part once high upon school every does got left number course war until always away something fact water "
    "less public put thing almost hand enough far took head yet better set told nothing night end why called find "
    "going look asked later next knew give sea king ship river garden tree light door road horse bread fire stone wind "
    "rain snow summer winter morning evening child mother father brother sister friend doctor teacher city village "
    "mountain island forest field flower bird dog cat fish red blue green white black yellow cold warm dark bright "
    "heavy quiet strong young early late large short deep wide open closed empty full clear simple round soft hard "
    "money story letter book paper music song picture window table chair kitchen bottle coat hat glass wood iron gold "
    "silver salt sugar milk coffee tea apple boat train bridge tower castle engine wheel clock machine market farm "
    "hill valley lake beach desert star moon sun sky cloud earth"
)

OPENERS = _OPENERS.split()
WORDS = _WORDS.split()
